//! What an application does with rqlite-rs. Where the database is comes by standard input: host port user password, and
//! host:port of other members, if they are to be used.

use rqlite_rs::error::RequestError;
use rqlite_rs::prelude::*;
use std::io::stdin;

const WRITES: i64 = 200;

#[derive(FromRow, Debug, PartialEq)]
struct Item {
    id: i64,
    name: String,
    price: Option<f64>,
}

#[derive(FromRow, Debug, PartialEq)]
struct Counts {
    n: i64,
    d: i64,
}

fn line() -> String {
    let mut line = String::new();
    stdin().read_line(&mut line).unwrap();
    line.trim().to_owned()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let to = line();
    let words: Vec<&str> = to.split(' ').collect();
    let [host, port, user, password, others @ ..] = &words[..] else { panic!("{to}") };
    let mut builder = RqliteClientBuilder::new().known_host(format!("{host}:{port}"));
    for other in others {
        builder = builder.known_host(*other);
    }
    let client = builder.auth(user, password).build()?;
    client.exec(rqlite_rs::query!("DROP TABLE IF EXISTS rs_items")?).await?;
    client.exec(rqlite_rs::query!("CREATE TABLE rs_items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, price REAL)")?).await?;
    client.exec(rqlite_rs::query!("INSERT INTO rs_items(name, price) VALUES(?, ?)", "lamp", 12.5)?).await?;
    client.exec(rqlite_rs::query!("INSERT INTO rs_items(name, price) VALUES(?, NULL)", "it's")?).await?;
    let rows = client.fetch(rqlite_rs::query!("SELECT id, name, price FROM rs_items ORDER BY id")?).await?;
    let items = rows.into_iter().map(Item::from_row).collect::<Result<Vec<_>, _>>()?;
    let expected = [(1, "lamp", Some(12.5)), (2, "it's", None)];
    let expected = expected.map(|(id, name, price)| Item { id, name: name.to_owned(), price });
    assert_eq!(items, expected);
    let twice = client.exec(rqlite_rs::query!("INSERT INTO rs_items(name) VALUES(?)", "lamp")?).await;
    assert!(format!("{twice:?}").contains("UNIQUE constraint failed: rs_items.name"), "{twice:?}");

    client.exec(rqlite_rs::query!("DROP TABLE IF EXISTS rs_counts")?).await?;
    client.exec(rqlite_rs::query!("CREATE TABLE rs_counts (n INTEGER)")?).await?;
    for n in 0..WRITES {
        if n == WRITES / 2 {
            println!("half");
            line();
        }
        match client.exec(rqlite_rs::query!("INSERT INTO rs_counts VALUES(?)", n)?).await {
            // Its connection broke: rqlite-rs goes on to another member by itself only where it cannot connect. This one may
            // have got the write.
            Err(RequestError::SwitchoverWrongError(_)) if !others.is_empty() => {
                let if_missing = "INSERT INTO rs_counts SELECT ? WHERE NOT EXISTS (SELECT 1 FROM rs_counts WHERE n = ?)";
                client.exec(rqlite_rs::query!(if_missing, n, n)?).await?;
            }
            written => drop(written?),
        }
    }
    let rows = client.fetch(rqlite_rs::query!("SELECT count(*) AS n, count(DISTINCT n) AS d FROM rs_counts")?).await?;
    let counts = rows.into_iter().map(Counts::from_row).collect::<Result<Vec<_>, _>>()?;
    assert_eq!(counts, [Counts { n: WRITES, d: WRITES }]);
    println!("done");
    Ok(())
}

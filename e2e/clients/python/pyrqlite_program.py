"""What an application does with pyrqlite (DB-API 2.0)."""

import program
import pyrqlite.dbapi2 as dbapi2


def main(hosts, user, password):
    somewhere = program.Somewhere(hosts, lambda host, port: dbapi2.connect(host=host, port=port, user=user, password=password))
    with somewhere.connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS py_items")
        cursor.execute(
            "CREATE TABLE py_items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, price REAL, made DATETIME)"
        )
        cursor.executemany(
            "INSERT INTO py_items(name, price) VALUES(?, ?)", seq_of_parameters=[("lamp", 12.5), ("chair", 40.0), ("it's", None)]
        )
        cursor.execute("INSERT INTO py_items(name, price) VALUES(:name, :price)", {"name": "table", "price": 99.75})
        assert cursor.lastrowid == 4, cursor.lastrowid
        cursor.execute("SELECT id, name, price FROM py_items ORDER BY id")
        rows = [tuple(row) for row in cursor.fetchall()]
        assert rows == [(1, "lamp", 12.5), (2, "chair", 40.0), (3, "it's", None), (4, "table", 99.75)], rows
        assert [column[0] for column in cursor.description] == ["id", "name", "price"]
        cursor.execute("SELECT count(*) AS n FROM py_items WHERE name = ?", ("lamp",))
        assert cursor.fetchone()["n"] == 1
        try:
            cursor.execute("INSERT INTO py_items(name) VALUES(?)", ("lamp",))
            raise AssertionError("a name twice")
        except dbapi2.Error as error:
            assert "UNIQUE constraint failed: py_items.name" in str(error), error
        try:
            cursor.execute("SELECT x FROM nowhere")
            raise AssertionError("no such table")
        except dbapi2.Error as error:
            assert "no such table: nowhere" in str(error), error
        cursor.execute("UPDATE py_items SET price = price + 1 WHERE price IS NOT NULL")
        assert cursor.rowcount == 3, cursor.rowcount
        cursor.execute("CREATE TABLE IF NOT EXISTS py_counts (n INTEGER)")
        cursor.execute("DELETE FROM py_counts")
    for n in program.writes():
        somewhere.do(
            lambda connection: execute(connection, "INSERT INTO py_counts VALUES(?)", (n,)),
            lambda connection: execute(
                connection, "INSERT INTO py_counts SELECT ? WHERE NOT EXISTS (SELECT 1 FROM py_counts WHERE n = ?)", (n, n)
            ),
        )
    with somewhere.connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT n) FROM py_counts")
        assert tuple(cursor.fetchone()) == (program.WRITES, program.WRITES)
    somewhere.connection.close()


def execute(connection, statement, parameters):
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


program.run(main)

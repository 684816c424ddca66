// What an application does with gorqlite, and with its driver for database/sql. Where the database is comes by standard
// input: host port user password. It asks there for the other members, and goes on to them by itself.
package main

import (
	"bufio"
	"database/sql"
	"fmt"
	"log"
	"os"
	"reflect"
	"strings"

	"github.com/rqlite/gorqlite"
	_ "github.com/rqlite/gorqlite/stdlib"
)

const writes = 200

var input = bufio.NewScanner(os.Stdin)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func expect(what string, got, want any) {
	if !reflect.DeepEqual(got, want) {
		log.Fatalf("%s: %v, not %v", what, got, want)
	}
}

// half says that half of the writes are done, and goes on when it is told that the leader has changed.
func half() {
	fmt.Println("half")
	input.Scan()
}

func main() {
	input.Scan()
	to := strings.Fields(input.Text())
	url := fmt.Sprintf("http://%s:%s@%s:%s/", to[2], to[3], to[0], to[1])
	switch os.Args[1] {
	case "gorqlite":
		direct(url)
	case "database-sql":
		driver(url)
	}
	fmt.Println("done")
}

func direct(url string) {
	conn, err := gorqlite.Open(url)
	must(err)
	defer conn.Close()
	leader, err := conn.Leader()
	must(err)
	if leader == "" {
		log.Fatal("no leader")
	}
	peers, err := conn.Peers()
	must(err)
	if len(peers) == 0 {
		log.Fatal("no peers")
	}
	_, err = conn.Write([]string{
		"DROP TABLE IF EXISTS go_items",
		"CREATE TABLE go_items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, price REAL)",
		"INSERT INTO go_items(name, price) VALUES('lamp', 12.5)",
	})
	must(err)
	result, err := conn.WriteOneParameterized(gorqlite.ParameterizedStatement{
		Query: "INSERT INTO go_items(name, price) VALUES(?, ?)", Arguments: []any{"it's", nil},
	})
	must(err)
	expect("last insert id", result.LastInsertID, int64(2))
	expect("rows affected", result.RowsAffected, int64(1))

	rows, err := conn.QueryOneParameterized(gorqlite.ParameterizedStatement{
		Query: "SELECT id, name, price FROM go_items WHERE id >= ? ORDER BY id", Arguments: []any{1},
	})
	must(err)
	expect("rows", rows.NumRows(), int64(2))
	for rows.Next() {
		var id int64
		var name string
		var price gorqlite.NullFloat64
		must(rows.Scan(&id, &name, &price))
		if id == 1 {
			expect("first row", []any{name, price.Float64, price.Valid}, []any{"lamp", 12.5, true})
		} else {
			expect("second row", []any{name, price.Valid}, []any{"it's", false})
		}
	}
	result, err = conn.WriteOne("INSERT INTO go_items(name) VALUES('lamp')")
	if err == nil || !strings.Contains(err.Error()+fmt.Sprint(result.Err), "UNIQUE constraint failed: go_items.name") {
		log.Fatalf("a name twice: %v, %v", err, result.Err)
	}
	must(conn.SetConsistencyLevel(gorqlite.ConsistencyLevelStrong))
	_, err = conn.Write([]string{"DROP TABLE IF EXISTS go_counts", "CREATE TABLE go_counts (n INTEGER)"})
	must(err)
	for n := range writes {
		if n == writes/2 {
			half()
		}
		_, err := conn.WriteOneParameterized(gorqlite.ParameterizedStatement{
			Query: "INSERT INTO go_counts VALUES(?)", Arguments: []any{n},
		})
		must(err)
	}
	counted, err := conn.QueryOne("SELECT count(*), count(DISTINCT n) FROM go_counts")
	must(err)
	var all, distinct int64
	counted.Next()
	must(counted.Scan(&all, &distinct))
	expect("counts", []int64{all, distinct}, []int64{writes, writes})
}

func driver(url string) {
	db, err := sql.Open("rqlite", url)
	must(err)
	defer db.Close()
	for _, statement := range []string{
		"DROP TABLE IF EXISTS sql_items",
		"CREATE TABLE sql_items (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, price REAL)",
		"DROP TABLE IF EXISTS sql_counts",
		"CREATE TABLE sql_counts (n INTEGER)",
	} {
		_, err := db.Exec(statement)
		must(err)
	}
	result, err := db.Exec("INSERT INTO sql_items(name, price) VALUES(?, ?)", "lamp", 12.5)
	must(err)
	id, err := result.LastInsertId()
	must(err)
	expect("last insert id", id, int64(1))
	var name string
	var price float64
	must(db.QueryRow("SELECT name, price FROM sql_items WHERE id = ?", 1).Scan(&name, &price))
	expect("row", []any{name, price}, []any{"lamp", 12.5})
	for n := range writes {
		if n == writes/2 {
			half()
		}
		_, err := db.Exec("INSERT INTO sql_counts VALUES(?)", n)
		must(err)
	}
	rows, err := db.Query("SELECT count(*), count(DISTINCT n) FROM sql_counts")
	must(err)
	var all, distinct int64
	for rows.Next() {
		must(rows.Scan(&all, &distinct))
	}
	expect("counts", []int64{all, distinct}, []int64{writes, writes})
}

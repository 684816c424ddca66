module sqlited-client-test

go 1.22

require github.com/rqlite/gorqlite v0.0.0-20261020015727-7224ce2bd419

package migrations

import (
	"regexp"
	"slices"
	"testing"
)

var table = regexp.MustCompile(`(?m)^(?:CREATE (?:TABLE|INDEX|UNIQUE INDEX) \w+|ALTER TABLE \w+ ADD COLUMN \w+)`)

// Both engines have the same files with the same tables, columns and indexes.
func TestEnginesAgree(t *testing.T) {
	lite, err := List(SQLite)
	if err != nil {
		t.Fatal(err)
	}
	post, err := List(Postgres)
	if err != nil {
		t.Fatal(err)
	}
	if len(lite) == 0 || len(lite) != len(post) {
		t.Fatalf("%d and %d files", len(lite), len(post))
	}
	for i := range lite {
		a, b := table.FindAllString(lite[i].SQL, -1), table.FindAllString(post[i].SQL, -1)
		if lite[i].Name != post[i].Name || len(a) == 0 || !slices.Equal(a, b) {
			t.Errorf("%s makes %v, %s makes %v", lite[i].Name, a, post[i].Name, b)
		}
	}
	if _, err := List("none"); err == nil {
		t.Error("an unknown engine has migrations")
	}
}

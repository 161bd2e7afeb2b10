// Command example makes a small BadgerDB to try the migration with.
package main

import (
	"log"
	"os"
	"time"

	"github.com/dgraph-io/badger/v4"
)

func main() {
	db, err := badger.Open(badger.DefaultOptions(os.Args[1]).WithLogger(nil))
	if err != nil {
		log.Fatal(err)
	}
	err = db.Update(func(txn *badger.Txn) error {
		for key, value := range map[string]string{
			"device/1": "on",
			"device/2": "größer",
			"binary":   "\xff\x00\xfe",
		} {
			if err := txn.Set([]byte(key), []byte(value)); err != nil {
				return err
			}
		}
		return txn.SetEntry(badger.NewEntry([]byte("lease"), []byte("held")).WithTTL(time.Hour))
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := db.Close(); err != nil {
		log.Fatal(err)
	}
}

// Command badger-dump writes the entries of a BadgerDB as JSON Lines, as `codexctl import` reads them.
//
//	badger-dump DIR > entries.jsonl
//
// The database is opened for reading only; whoever has it open must close it first. Each line has the key as `key` or `keyBase64`, the
// value as `text` or `value` (base64), whichever is UTF-8, and the expiry, if there is one, in milliseconds since 1970.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"unicode/utf8"

	"github.com/dgraph-io/badger/v4"
)

type line struct {
	Key       *string `json:"key,omitempty"`
	KeyBase64 *string `json:"keyBase64,omitempty"`
	Text      *string `json:"text,omitempty"`
	Value     *string `json:"value,omitempty"`
	ExpiresAt uint64  `json:"expiresAt,omitempty"`
}

func main() {
	if err := dump(); err != nil {
		fmt.Fprintln(os.Stderr, "badger-dump:", err)
		os.Exit(1)
	}
}

func dump() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: badger-dump DIR > entries.jsonl")
	}
	if _, err := os.Stat(os.Args[1]); err != nil {
		return err
	}
	db, err := badger.Open(badger.DefaultOptions(os.Args[1]).WithReadOnly(true).WithLogger(nil))
	if err != nil {
		return err
	}
	defer db.Close()
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	err = db.View(func(txn *badger.Txn) error {
		entries := txn.NewIterator(badger.DefaultIteratorOptions)
		defer entries.Close()
		for entries.Rewind(); entries.Valid(); entries.Next() {
			item := entries.Item()
			value, err := item.ValueCopy(nil)
			if err != nil {
				return err
			}
			var entry line
			entry.Key, entry.KeyBase64 = fields(item.Key())
			entry.Text, entry.Value = fields(value)
			entry.ExpiresAt = item.ExpiresAt() * 1000
			if err := encoder.Encode(entry); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

// fields gives the bytes as text if they are UTF-8, or else in base64.
func fields(bytes []byte) (text, encoded *string) {
	if utf8.Valid(bytes) {
		text := string(bytes)
		return &text, nil
	}
	base := base64.StdEncoding.EncodeToString(bytes)
	return nil, &base
}

// Command badger runs one case of the store bench on BadgerDB and prints what it measured as JSON.
//
// The bench builds it and runs it once for each round: a library of another language can only be measured
// in a process of its own. Opening is outside of what is timed, unless it is the case.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

var (
	dir     = flag.String("dir", "", "directory of the database")
	action  = flag.String("case", "", "fill, set, get, scan, batch, mixed, open")
	threads = flag.Int("threads", 1, "goroutines at once")
	keys    = flag.Uint("keys", 100_000, "keys there are")
	size    = flag.Int("value", 100, "bytes of a value")
	count   = flag.Uint("batch", 1, "sets in a batch")
	limit   = flag.Duration("for", time.Second, "how long to measure")
	total   = flag.Uint64("operations", 0, "or how many operations, if not 0")
)

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

func key(n uint) []byte { return fmt.Appendf(nil, "key:%012d", n) }

// spread visits the keys in the order that the bench's own side visits them in.
func spread(n uint64) uint { return uint((n * 0x9E3779B97F4A7C15 >> 20) % uint64(*keys)) }

func value(seed uint64) []byte {
	out := make([]byte, *size)
	for i := range out {
		seed = seed*6364136223846793005 + 1442695040888963407
		out[i] = letters[seed>>58]
	}
	return out
}

func open() *badger.DB {
	options := badger.DefaultOptions(*dir).WithSyncWrites(*action != "fill").WithLogger(nil)
	db, err := badger.Open(options)
	if err != nil {
		log.Fatal(err)
	}
	return db
}

// work runs step by all threads until the time is over, and gives operations a second.
func work(step func(n uint64) error) float64 {
	var next, done atomic.Uint64
	start := time.Now()
	var all sync.WaitGroup
	for range *threads {
		all.Go(func() {
			for {
				n := next.Add(1)
				if *total != 0 && n > *total || time.Since(start) > *limit {
					return
				}
				if err := step(n); err != nil {
					log.Fatal(err)
				}
				done.Add(1)
			}
		})
	}
	all.Wait()
	return float64(done.Load()) / time.Since(start).Seconds()
}

func set(db *badger.DB, n uint64) error {
	return db.Update(func(txn *badger.Txn) error { return txn.Set(key(spread(n)), value(n)) })
}

func get(db *badger.DB, n uint64) error {
	return db.View(func(txn *badger.Txn) error {
		item, err := txn.Get(key(spread(n)))
		if err != nil {
			return err
		}
		return item.Value(func([]byte) error { return nil })
	})
}

func scan(db *badger.DB) (entries uint64, err error) {
	err = db.View(func(txn *badger.Txn) error {
		all := txn.NewIterator(badger.DefaultIteratorOptions)
		defer all.Close()
		for all.Rewind(); all.Valid(); all.Next() {
			if err := all.Item().Value(func([]byte) error { entries++; return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	return entries, err
}

func fill(db *badger.DB) error {
	batch := db.NewWriteBatch()
	for n := range *keys {
		if err := batch.Set(key(n), value(uint64(n))); err != nil {
			return err
		}
	}
	return batch.Flush()
}

func measure(db *badger.DB) (float64, error) {
	switch *action {
	case "set":
		return work(func(n uint64) error { return set(db, n) }), nil
	case "get":
		return work(func(n uint64) error { return get(db, n) }), nil
	case "mixed":
		return work(func(n uint64) error {
			if n%10 == 0 {
				return set(db, n)
			}
			return get(db, n)
		}), nil
	case "batch":
		rate := work(func(n uint64) error {
			return db.Update(func(txn *badger.Txn) error {
				for i := range *count {
					at := n*uint64(*count) + uint64(i)
					if err := txn.Set(key(spread(at)), value(at)); err != nil {
						return err
					}
				}
				return nil
			})
		})
		return rate * float64(*count), nil
	case "scan":
		var entries uint64
		start := time.Now()
		for time.Since(start) < *limit {
			n, err := scan(db)
			if err != nil {
				return 0, err
			}
			entries += n
		}
		return float64(entries) / time.Since(start).Seconds(), nil
	case "fill":
		start := time.Now()
		err := fill(db)
		return float64(*keys) / time.Since(start).Seconds(), err
	}
	return 0, fmt.Errorf("no such case: %q", *action)
}

func main() {
	flag.Parse()
	start := time.Now()
	db := open()
	result := float64(time.Since(start).Microseconds()) / 1e3
	var err error
	if *action != "open" {
		result, err = measure(db)
	}
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(map[string]float64{"value": result}); err != nil {
		log.Fatal(err)
	}
}

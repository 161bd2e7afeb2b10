// Requests that are answered once, however often they come: the first to claim a request's id does the work, and the answer is
// kept for the others. With go-redis, and the same keys over HTTP with the standard library.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	claimed = "claimed"
	// A claim whose owner died is free again after this, an answer is kept for a day.
	claim = 10 * time.Second
	kept  = 24 * time.Hour
)

var store = redis.NewClient(&redis.Options{Network: "unix", Addr: os.Getenv("CODEXSTORE_REDIS_SOCKET")})

// once returns the answer to a request: of work, or the one that is kept.
func once(ctx context.Context, id string, work func() string) (string, error) {
	key := "request/" + id
	for {
		mine, err := store.SetNX(ctx, key, claimed, claim).Result()
		if err != nil {
			return "", err
		}
		if mine {
			answer := work()
			return answer, store.Set(ctx, key, answer, kept).Err()
		}
		answer, err := store.Get(ctx, key).Result()
		if err == nil && answer != claimed {
			return answer, nil
		}
		if err != nil && err != redis.Nil {
			return "", err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func main() {
	ctx := context.Background()
	var worked int32
	var answers sync.Map
	var all sync.WaitGroup
	for n := 0; n < 8; n++ {
		all.Add(1)
		go func() {
			defer all.Done()
			answer, err := once(ctx, "pay-7", func() string {
				atomic.AddInt32(&worked, 1)
				time.Sleep(50 * time.Millisecond)
				return "paid 12.50"
			})
			if err != nil {
				panic(err)
			}
			answers.Store(answer, true)
		}()
	}
	all.Wait()
	answers.Range(func(answer, _ any) bool {
		fmt.Printf("eight requests, worked %d time(s): %s\n", atomic.LoadInt32(&worked), answer)
		return true
	})

	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", os.Getenv("CODEXSTORE_SOCKET"))
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial}}
	response, err := client.Get("http://store/v1/keys/request%2Fpay-7")
	if err != nil {
		panic(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	expires := response.Header.Get("Codexstore-Expires-At") != ""
	fmt.Println("over HTTP:", response.StatusCode, string(text), "expires:", expires)
}

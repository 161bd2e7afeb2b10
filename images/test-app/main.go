// The app of an image without a shell, for the end-to-end tests. It uses the store's socket as its very first and its very
// last action, and says what came of it in its log, one line each.
//
//	app serve            put KEY/first; wait for SIGTERM; put KEY/last (the default)
//	app once             put KEY/first, put KEY/last, end: for a Job
//	app load SECONDS     put KEY/load/N for N = 1, 2, ... and repeat a put that failed; then read back each acknowledged one.
//	                     Prints {"acknowledged":N,"missing":N,"wrong":N,"failures":N}; ends with 1 if any is missing or wrong
//	app get KEY          print the value
//	app sleep            nothing at all until SIGTERM
//
// KEY is APP_KEY, by default `app`; the socket is CODEXSTORE_SOCKET.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var client = &http.Client{
	Timeout: 5 * time.Second,
	Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", os.Getenv("CODEXSTORE_SOCKET"))
		},
	},
}

func call(method, key, value string) (int, string, error) {
	address := "http://localhost/v1/keys/" + url.PathEscape(key)
	request, err := http.NewRequest(method, address, strings.NewReader(value))
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

func put(key, value string) error {
	status, body, err := call(http.MethodPut, key, value)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("status %d: %s", status, body)
	}
	return err
}

// step puts KEY/name and says so; an app whose store does not work ends at once.
func step(name string) {
	if err := put(prefix()+"/"+name, time.Now().UTC().Format(time.RFC3339Nano)); err != nil {
		fmt.Printf("%s: failed: %v\n", name, err)
		os.Exit(1)
	}
	fmt.Printf("%s: ok\n", name)
}

func prefix() string {
	if key := os.Getenv("APP_KEY"); key != "" {
		return key
	}
	return "app"
}

func untilTerm() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	<-term
}

func load(duration time.Duration) {
	end := time.Now().Add(duration)
	acknowledged, failures := 0, 0
	for time.Now().Before(end) {
		n := acknowledged + 1
		if put(fmt.Sprintf("%s/load/%08d", prefix(), n), strconv.Itoa(n)) != nil {
			failures++
			time.Sleep(20 * time.Millisecond)
			continue
		}
		acknowledged = n
	}
	missing, wrong := 0, 0
	for n := 1; n <= acknowledged; n++ {
		switch status, body, err := call(http.MethodGet, fmt.Sprintf("%s/load/%08d", prefix(), n), ""); {
		case err != nil || status != http.StatusOK:
			missing++
		case body != strconv.Itoa(n):
			wrong++
		}
	}
	fmt.Printf(`{"acknowledged":%d,"missing":%d,"wrong":%d,"failures":%d}`+"\n", acknowledged, missing, wrong, failures)
	if missing+wrong > 0 || acknowledged == 0 {
		os.Exit(1)
	}
}

func main() {
	arguments := append(os.Args[1:], "", "")
	switch arguments[0] {
	case "", "serve":
		step("first")
		untilTerm()
		step("last")
	case "once":
		step("first")
		step("last")
	case "load":
		seconds, err := strconv.Atoi(arguments[1])
		if err != nil {
			seconds = 10
		}
		load(time.Duration(seconds) * time.Second)
	case "get":
		status, body, err := call(http.MethodGet, arguments[1], "")
		if err != nil || status != http.StatusOK {
			fmt.Fprintf(os.Stderr, "status %d: %s %v\n", status, body, err)
			os.Exit(1)
		}
		fmt.Print(body)
	case "sleep":
		untilTerm()
	default:
		fmt.Fprintf(os.Stderr, "unknown command %q\n", arguments[0])
		os.Exit(2)
	}
}

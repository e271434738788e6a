// A foreign SPIFFE implementation as a program: go-spiffe as Workload API client, TLS peer, verifier, and as client and server of
// bundle endpoints. Each command prints JSON, one object a line, so that the tests of ../.. can read it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

var commands = map[string]func(context.Context, []string) error{
	"judge":        judge,
	"fetch":        fetch,
	"watch":        watch,
	"validate":     validate,
	"tls-dial":     tlsDial,
	"tls-listen":   tlsListen,
	"bundle-fetch": bundleFetch,
	"bundle-watch": bundleWatch,
	"bundle-serve": bundleServe,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: peer judge|fetch|watch|validate|tls-dial|tls-listen|bundle-fetch|bundle-watch|bundle-serve ARGS")
		os.Exit(64)
	}
	if err := commands[os.Args[1]](ctx, os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// say prints one object as one line.
func say(object map[string]any) {
	line, err := json.Marshal(object)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

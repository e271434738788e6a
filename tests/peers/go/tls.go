package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// tls-dial -socket S -address A -expect ID: mTLS to a server with this process's own SVID; says who the server is.
func tlsDial(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("tls-dial", flag.ContinueOnError)
	socket := flags.String("socket", "", "")
	address := flags.String("address", "", "")
	expect := flags.String("expect", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	id, err := spiffeid.FromString(*expect)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	mode := spiffetls.MTLSClientWithSourceOptions(tlsconfig.AuthorizeID(id), workloadapi.WithClientOptions(workloadapi.WithAddr(*socket)))
	conn, err := spiffetls.DialWithMode(ctx, "tcp", *address, mode)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, "hello"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	peer, err := spiffetls.PeerIDFromConn(conn)
	if err != nil {
		return err
	}
	say(map[string]any{"peer": peer.String(), "line": line})
	return nil
}

// tls-listen -socket S [-domain D]: mTLS server with this process's own SVID; says its address and then who calls.
func tlsListen(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("tls-listen", flag.ContinueOnError)
	socket := flags.String("socket", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	mode := spiffetls.MTLSServerWithSourceOptions(tlsconfig.AuthorizeAny(), workloadapi.WithClientOptions(workloadapi.WithAddr(*socket)))
	listener, err := spiffetls.ListenWithMode(ctx, "tcp", "127.0.0.1:0", mode)
	if err != nil {
		return err
	}
	go func() { <-ctx.Done(); listener.Close() }()
	say(map[string]any{"address": listener.Addr().String()})
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		say(map[string]any{"error": err.Error()})
		return
	}
	peer, err := spiffetls.PeerIDFromConn(conn)
	if err != nil {
		say(map[string]any{"error": err.Error()})
		return
	}
	fmt.Fprint(conn, line)
	say(map[string]any{"peer": peer.String()})
}

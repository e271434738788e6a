package main

import (
	"context"
	"errors"
	"flag"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// fetch -socket unix:///… [-audience A]: what this process gets from the Workload API.
func fetch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("fetch", flag.ContinueOnError)
	socket := flags.String("socket", "", "")
	audience := flags.String("audience", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(*socket))
	if err != nil {
		return err
	}
	defer client.Close()
	x509, err := client.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	sayX509(x509)
	if *audience == "" {
		return nil
	}
	tokens, err := client.FetchJWTSVIDs(ctx, jwtsvid.Params{Audience: *audience})
	if err != nil {
		return err
	}
	for _, token := range tokens {
		say(map[string]any{"jwt": token.ID.String(), "token": token.Marshal(), "hint": token.Hint, "expiry": token.Expiry.Unix()})
	}
	bundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return err
	}
	keys := map[string]int{}
	for _, bundle := range bundles.Bundles() {
		keys[bundle.TrustDomain().Name()] = len(bundle.JWTAuthorities())
	}
	say(map[string]any{"jwtBundles": keys})
	return nil
}

func sayX509(x509 *workloadapi.X509Context) {
	var svids []map[string]any
	for _, svid := range x509.SVIDs {
		svids = append(svids, map[string]any{
			"id": svid.ID.String(), "serial": svid.Certificates[0].SerialNumber.Text(16), "hint": svid.Hint,
			"chain": len(svid.Certificates),
		})
	}
	bundles := map[string]int{}
	for _, bundle := range x509.Bundles.Bundles() {
		bundles[bundle.TrustDomain().Name()] = len(bundle.X509Authorities())
	}
	say(map[string]any{"x509": svids, "bundles": bundles})
}

type watcher struct{}

func (watcher) OnX509ContextUpdate(x509 *workloadapi.X509Context) { sayX509(x509) }
func (watcher) OnX509ContextWatchError(err error)                 { say(map[string]any{"error": err.Error()}) }

// watch -socket unix:///…: each update of the Workload API, until the end of the process.
func watch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("watch", flag.ContinueOnError)
	socket := flags.String("socket", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	err := workloadapi.WatchX509Context(ctx, watcher{}, workloadapi.WithAddr(*socket))
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// validate -socket unix:///… -audience A -token T: asks the Workload API whether a token is good.
func validate(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("validate", flag.ContinueOnError)
	socket := flags.String("socket", "", "")
	audience := flags.String("audience", "", "")
	token := flags.String("token", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	svid, err := workloadapi.ValidateJWTSVID(ctx, *token, *audience, workloadapi.WithAddr(*socket))
	if err != nil {
		return err
	}
	say(map[string]any{"id": svid.ID.String(), "claims": svid.Claims})
	return nil
}

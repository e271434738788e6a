package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"flag"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// options of a bundle endpoint's client: https_spiffe with -bootstrap and -endpoint-id, else https_web with -roots.
func options(flags *flag.FlagSet) func() (spiffeid.TrustDomain, string, []federation.FetchOption, error) {
	domain := flags.String("domain", "", "")
	address := flags.String("url", "", "")
	bootstrap := flags.String("bootstrap", "", "")
	endpoint := flags.String("endpoint-id", "", "")
	roots := flags.String("roots", "", "")
	return func() (spiffeid.TrustDomain, string, []federation.FetchOption, error) {
		td, err := spiffeid.TrustDomainFromString(*domain)
		if err != nil {
			return td, "", nil, err
		}
		if *endpoint == "" {
			pool := x509.NewCertPool()
			pem, err := os.ReadFile(*roots)
			if err != nil || !pool.AppendCertsFromPEM(pem) {
				return td, "", nil, errors.New("no roots")
			}
			return td, *address, []federation.FetchOption{federation.WithWebPKIRoots(pool)}, nil
		}
		id, err := spiffeid.FromString(*endpoint)
		if err != nil {
			return td, "", nil, err
		}
		bundle, err := spiffebundle.Load(id.TrustDomain(), *bootstrap)
		if err != nil {
			return td, "", nil, err
		}
		return td, *address, []federation.FetchOption{federation.WithSPIFFEAuth(bundle.X509Bundle(), id)}, nil
	}
}

func sayBundle(bundle *spiffebundle.Bundle) {
	sequence, _ := bundle.SequenceNumber()
	hint, _ := bundle.RefreshHint()
	document, err := bundle.Marshal()
	if err != nil {
		say(map[string]any{"error": err.Error()})
		return
	}
	say(map[string]any{
		"sequence": sequence, "hint": int(hint.Seconds()), "x509": len(bundle.X509Authorities()), "jwt": len(bundle.JWTAuthorities()),
		"document": string(document),
	})
}

// bundle-fetch: one fetch from an endpoint.
func bundleFetch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bundle-fetch", flag.ContinueOnError)
	read := options(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	domain, address, fetchOptions, err := read()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	bundle, err := federation.FetchBundle(ctx, domain, address, fetchOptions...)
	if err != nil {
		return err
	}
	sayBundle(bundle)
	return nil
}

type bundleWatcher struct{ every time.Duration }

func (w bundleWatcher) NextRefresh(time.Duration) time.Duration { return w.every }
func (bundleWatcher) OnUpdate(bundle *spiffebundle.Bundle)      { sayBundle(bundle) }
func (bundleWatcher) OnError(err error)                         { say(map[string]any{"error": err.Error()}) }

// bundle-watch -every 100ms: each bundle that an endpoint serves, until the end of the process.
func bundleWatch(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bundle-watch", flag.ContinueOnError)
	read := options(flags)
	every := flags.Duration("every", time.Second, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	domain, address, fetchOptions, err := read()
	if err != nil {
		return err
	}
	err = federation.WatchBundle(ctx, domain, address, bundleWatcher{*every}, fetchOptions...)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// A trust domain of our own, as SPIRE would serve it: one authority at a time in use, rotated by SIGHUP.
type mint struct {
	mutex     sync.Mutex
	domain    spiffeid.TrustDomain
	bundle    *spiffebundle.Bundle
	svid      *x509svid.SVID
	next      *authority
	sequence  uint64
	authority *authority
}

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(domain spiffeid.TrustDomain) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"peer"}, SerialNumber: serial.String()},
		NotBefore: time.Now().Add(-10 * time.Second), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs: []*url.URL{domain.ID().URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	return &authority{certificate, key}, err
}

func (a *authority) issue(id spiffeid.ID) (*x509svid.SVID, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-10 * time.Second), NotAfter: time.Now().Add(30 * time.Minute),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{id.URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{certificate}, PrivateKey: key}, nil
}

// rotate publishes an authority ahead of its use, uses it at the next call, and drops the one before at the call after that.
func (m *mint) rotate(endpoint spiffeid.ID) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.next != nil {
		m.authority, m.next = m.next, nil
		m.bundle.SetX509Authorities([]*x509.Certificate{m.authority.certificate})
	} else {
		next, err := newAuthority(m.domain)
		if err != nil {
			return err
		}
		m.next = next
		m.bundle.AddX509Authority(next.certificate)
	}
	m.sequence++
	m.bundle.SetSequenceNumber(m.sequence)
	svid, err := m.authority.issue(endpoint)
	if err != nil {
		return err
	}
	m.svid = svid
	say(map[string]any{"sequence": m.sequence, "x509": len(m.bundle.X509Authorities())})
	return nil
}

func (m *mint) GetX509SVID() (*x509svid.SVID, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.svid, nil
}

func (m *mint) GetBundleForTrustDomain(domain spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.bundle.Clone(), nil
}

// bundle-serve -domain D -out FILE: serves an https_spiffe endpoint on any port of loopback; SIGHUP rotates. The first bundle is
// written to FILE before the address is said.
func bundleServe(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("bundle-serve", flag.ContinueOnError)
	name := flags.String("domain", "", "")
	out := flags.String("out", "", "")
	hint := flags.Duration("hint", time.Minute, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	domain, err := spiffeid.TrustDomainFromString(*name)
	if err != nil {
		return err
	}
	endpoint, err := spiffeid.FromPath(domain, "/spire/server")
	if err != nil {
		return err
	}
	first, err := newAuthority(domain)
	if err != nil {
		return err
	}
	m := &mint{domain: domain, bundle: spiffebundle.New(domain), authority: first, sequence: 1}
	m.bundle.AddX509Authority(first.certificate)
	m.bundle.SetRefreshHint(*hint)
	m.bundle.SetSequenceNumber(m.sequence)
	if m.svid, err = first.issue(endpoint); err != nil {
		return err
	}
	document, err := m.bundle.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(*out, document, 0o644); err != nil {
		return err
	}
	handler, err := federation.NewHandler(domain, m)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, TLSConfig: tlsconfig.TLSServerConfig(m), ReadHeaderTimeout: 10 * time.Second}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-ctx.Done():
				server.Close()
				return
			case <-hangups:
				if err := m.rotate(endpoint); err != nil {
					say(map[string]any{"error": err.Error()})
				}
			}
		}
	}()
	say(map[string]any{"url": "https://" + listener.Addr().String(), "endpointId": endpoint.String()})
	err = server.Serve(tls.NewListener(listener, server.TLSConfig))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

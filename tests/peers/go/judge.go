package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// A case of the matrix, as the Rust side writes it.
type testCase struct {
	Name        string          `json:"name"`
	Kind        string          `json:"kind"` // x509, jwt, bundle
	TrustDomain string          `json:"trustDomain"`
	Bundle      json.RawMessage `json:"bundle"` // SPIFFE JWKS
	Chain       []string        `json:"chain"`  // x509: base64 DER, leaf first
	Key         string          `json:"key"`    // x509: base64 PKCS#8
	Token       string          `json:"token"`
	Audience    string          `json:"audience"`
}

// judge CASES: says of each case whether go-spiffe takes it, and its words if not.
func judge(_ context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: peer judge CASES")
	}
	content, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var cases []testCase
	if err := json.Unmarshal(content, &cases); err != nil {
		return err
	}
	for _, one := range cases {
		verdict := map[string]any{"name": one.Name, "verdict": "accept"}
		if err := one.judge(); err != nil {
			verdict["verdict"] = "refuse"
			verdict["why"] = err.Error()
		}
		say(verdict)
	}
	return nil
}

func (c testCase) judge() error {
	domain, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	if err != nil {
		return err
	}
	bundle, err := spiffebundle.Read(domain, bytes.NewReader(c.Bundle))
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	switch c.Kind {
	case "x509":
		return c.judgeX509(bundle)
	case "jwt":
		_, err := jwtsvid.ParseAndValidate(c.Token, bundle, []string{c.Audience})
		return err
	case "bundle":
		return nil
	default:
		return fmt.Errorf("unknown kind %q", c.Kind)
	}
}

func (c testCase) judgeX509(bundle *spiffebundle.Bundle) error {
	var chain [][]byte
	for _, encoded := range c.Chain {
		der, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return err
		}
		chain = append(chain, der)
	}
	if _, _, err := x509svid.ParseAndVerify(chain, bundle); err != nil {
		return err
	}
	if c.Key == "" {
		return nil
	}
	key, err := base64.StdEncoding.DecodeString(c.Key)
	if err != nil {
		return err
	}
	_, err = x509svid.ParseRaw(bytes.Join(chain, nil), key)
	return err
}

"""Says of each case of the matrix what py-spiffe and spiffe-tls make of it, one JSON object a line. usage: judge.py CASES"""

import base64
import json
import logging
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "target" / "tools" / "spiffe"))

from OpenSSL import SSL  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import serialization  # noqa: E402
from spiffe import JwtBundle, JwtSvid, TrustDomain, X509Bundle, X509Svid  # noqa: E402
from spiffetls.context import create_ssl_context  # noqa: E402
from spiffetls.tlsconfig.authorize import authorize_any  # noqa: E402


class Source:
    """What spiffe-tls wants of an X509Source, from memory."""

    def __init__(self, svid, bundles):
        self.svid = svid
        self.bundles = bundles

    def subscribe_for_updates(self, _):
        pass


def decoded(case):
    return [base64.b64decode(der) for der in case["chain"]]


def x509_bundle(case):
    keys = [key for key in case["bundle"].get("keys") or [] if key.get("use") == "x509-svid"]
    authorities = {x509.load_der_x509_certificate(base64.b64decode(key["x5c"][0])) for key in keys}
    return X509Bundle(TrustDomain(case["trustDomain"]), authorities)


def parse(case):
    X509Svid.parse_raw(b"".join(decoded(case)), base64.b64decode(case["key"]))


def handshake(case, good):
    """A server of spiffe-tls with the good SVID, and a client that shows the chain of the case."""
    server = SSL.Connection(
        create_ssl_context(SSL.TLS_SERVER_METHOD, Source(good, {x509_bundle(case)}), authorize_any()), None
    )
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    leaf, *rest = [x509.load_der_x509_certificate(der) for der in decoded(case)]
    context.use_certificate(leaf)
    context.use_privatekey(serialization.load_der_private_key(base64.b64decode(case["key"]), None))
    for certificate in rest:
        context.add_extra_chain_cert(certificate)
    client = SSL.Connection(context, None)
    server.set_accept_state()
    client.set_connect_state()
    finished = set()
    for _ in range(20):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
                finished.add(one)
            except SSL.WantReadError:
                pass
            try:
                other.bio_write(one.bio_read(1 << 20))
            except SSL.WantReadError:
                pass
        if server in finished:
            return
    raise RuntimeError("the handshake did not end")


def token(case):
    bundle = JwtBundle.parse(TrustDomain(case["trustDomain"]), json.dumps(case["bundle"]).encode())
    JwtSvid.parse_and_validate(case["token"], bundle, {case["audience"]})


def verdict(judge, *args):
    try:
        judge(*args)
    except BaseException as why:  # an assertion or a panic of a library refuses too
        return {"verdict": "refuse", "why": f"{type(why).__name__}: {why}"[:300]}
    return {"verdict": "accept"}


def main():
    logging.disable(logging.CRITICAL)
    cases = json.loads(pathlib.Path(sys.argv[1]).read_text())
    first = next((case for case in cases if case["kind"] == "x509" and case["expect"] == "accept"), None)
    good = first and X509Svid.parse_raw(b"".join(decoded(first)), base64.b64decode(first["key"]))
    for case in cases:
        said = {"name": case["name"]}
        if case["kind"] == "x509":
            said["spiffe"] = verdict(parse, case)
            said["spiffe-tls"] = verdict(handshake, case, good)
        elif case["kind"] == "jwt":
            said["spiffe"] = verdict(token, case)
        print(json.dumps(said))


main()

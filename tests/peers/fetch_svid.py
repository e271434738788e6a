"""Fetches an X.509-SVID with py-spiffe and prints its ID. usage: fetch_svid.py SOCKET"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "target" / "tools" / "spiffe"))

from spiffe import WorkloadApiClient  # noqa: E402

with WorkloadApiClient(f"unix:{sys.argv[1]}") as client:
    svid = client.fetch_x509_svid()
    bundles = client.fetch_x509_bundles()
    own = bundles.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    assert own is not None and own.x509_authorities, "the response lacks the bundle of the SVID's own trust domain"
    print(svid.spiffe_id)

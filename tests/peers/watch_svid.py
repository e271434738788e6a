"""Follows a Workload API with py-spiffe's X509Source; prints each update as JSON. usage: watch_svid.py SOCKET"""

import json
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "target" / "tools" / "spiffe"))

from spiffe import WorkloadApiClient, X509Source  # noqa: E402

with X509Source(WorkloadApiClient(f"unix:{sys.argv[1]}")) as source:
    last = None

    def say():
        global last
        svid = source.get_x509_context().default_svid
        last = format(svid.leaf.serial_number, "x")
        print(json.dumps({"id": str(svid.spiffe_id), "serial": last}), flush=True)

    say()
    source.subscribe_for_updates(say)
    # An update between these two lines told nobody.
    if format(source.get_x509_context().default_svid.leaf.serial_number, "x") != last:
        say()
    threading.Event().wait()

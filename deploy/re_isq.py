"""`tramontane re-isq`: other weights for a running server's model, and what became of them."""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from deploy.client import Client, ServerError

SUMMARY = "quantise a running server's model anew, without a pause of service"
CONFIGS = ()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `re-isq`."""
    parser.add_argument("--type", required=True, help="Q4K, Q8_0, HQQ4, FP8, … or bits (4)")
    parser.add_argument("--url", default="", help="the server (default http://127.0.0.1:PORT)")
    parser.add_argument("-p", "--port", default="", help="the server's port on this machine")
    parser.add_argument("--api-key", default="", help="an admin's, sent as a bearer token")
    parser.add_argument("-m", "--model", default="default", help="the model, if there are several")


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Wait until every worker has the weights. 0, or 1 if the server refused or it failed."""
    url = values.url or f"http://127.0.0.1:{values.port or environ.get('PORT') or 1234}"
    client = Client(url, api_key=values.api_key, options={"model": values.model})
    try:
        change = client.post("/v1/re_isq", {"isq_type": values.type})
    except ServerError as error:
        print(f"tramontane: {error}", file=sys.stderr)
        return 1
    for worker in change["workers"]:
        print(_line(worker))
    return 0


def _line(worker: Mapping[str, Any]) -> str:
    before, after = (worker[name] or "as in the files" for name in ("before", "after"))
    return f"{worker['id']}: {before} -> {after}, {worker['took_ms'] / 1000:.1f} s"

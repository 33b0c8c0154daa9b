"""`tramontane keys new` and `keys hash`: API keys for the file that the HTTP server reads.

Writes no file: the new entry goes to stdout, ready to be appended to one.
"""

import argparse
import base64
import getpass
import json
import secrets
import sys
from collections.abc import Mapping
from typing import get_args

from api import key_file
from api.hooks import signing
from deploy import settings
from deploy.errors import StartError
from workers.contract import ServiceClass

SUMMARY = "make API keys: `keys new --tenant NAME`, or `keys hash` with a key on stdin"
CONFIGS: tuple[settings.Config, ...] = ()

KEY_PREFIX = "sk-tr-"
_RANDOM_BYTES = 32
_LIMITS = ("requests_per_min", "tokens_per_min", "max_jobs")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `keys new`; those left out are left out of the entry."""
    parser.add_argument("--tenant", default="", help="whose key it is")
    parser.add_argument("--service-class", choices=get_args(ServiceClass))
    for name in _LIMITS:
        parser.add_argument("--" + name.replace("_", "-"), type=int, help="0: no limit")
    parser.add_argument("--admin", action="store_true", default=None, help="may use /admin/…")
    parser.add_argument("--webhook-url", help="told of the end of jobs; comes with a fresh secret")


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Do the action that the command line names. Raises StartError."""
    if values.action == "new":
        return _new(values)
    if values.action == "hash":
        return _hash()
    raise StartError("keys needs a word more: `keys new --tenant NAME` or `keys hash`")


def _new(values: argparse.Namespace) -> int:
    if not values.tenant:
        raise StartError("a new key needs a tenant: --tenant NAME")
    key = KEY_PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    text = _entry({"tenant": values.tenant, "hash": key_file.hash_text(key), **_options(values)})
    print(f"the key, which is shown this once: {key}", file=sys.stderr, flush=True)
    print(text)
    return 0


def _options(values: argparse.Namespace) -> dict[str, object]:
    names = ("service_class", *_LIMITS, "admin", "webhook_url")
    options = {name: value for name in names if (value := getattr(values, name)) is not None}
    if "webhook_url" in options:
        secret = base64.b64encode(secrets.token_bytes(_RANDOM_BYTES)).decode()
        options["webhook_secret"] = signing.SECRET_PREFIX + secret
    return options


def _entry(fields: Mapping[str, object]) -> str:
    """A `[[keys]]` of the file. Raises StartError if the server would refuse it."""
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    text = "\n".join(["[[keys]]", *lines, ""])
    try:
        key_file.parse_file(text)
    except ValueError as error:
        raise StartError(str(error).replace("[[keys]] number 1: ", "")) from error
    return text


def _line() -> str:
    return sys.stdin.buffer.readline().decode(errors="replace").strip()


def _hash() -> int:
    is_terminal = sys.stdin.isatty()
    key = getpass.getpass("key: ") if is_terminal else _line()
    if not key:
        raise StartError("keys hash reads a key from stdin, and there is none")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise StartError("no header can carry this key: it needs printable ASCII without spaces")
    print(key_file.hash_text(key))
    return 0

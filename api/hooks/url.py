"""URLs that clients name: taken apart, and refused if they lead nowhere. Pure; asks no resolver."""

from typing import NamedTuple
from urllib.parse import urlsplit

from api.hooks.addresses import is_public

MAX_URL = 2048
_DEFAULT_PORTS = {"http": 80, "https": 443}


class BadUrl(ValueError):
    """A URL that will never be requested; the message is a sentence without its subject."""


class Target(NamedTuple):
    """Where a URL points to. `netloc` is host and port as the URL has them."""

    scheme: str
    host: str
    port: int
    netloc: str
    path: str


def parse_url(url: str, *, allow_private: bool) -> Target:
    """Take a URL apart. Raises BadUrl, also for one that names a private address outright."""
    if len(url) > MAX_URL:
        raise BadUrl(f"is longer than {MAX_URL} characters")
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise BadUrl("has characters that a URL cannot have")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadUrl("is not a URL") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise BadUrl("must begin with https:// or http:// and a host")
    if "@" in parts.netloc:
        raise BadUrl("must not hold a user name or a password")
    if port == 0:
        raise BadUrl("must have a port from 1 to 65535")
    _check_host(parts.hostname, allow_private=allow_private)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    port = port or _DEFAULT_PORTS[parts.scheme]
    return Target(parts.scheme, parts.hostname, port, parts.netloc, path)


def _check_host(host: str, *, allow_private: bool) -> None:
    try:
        is_private = not is_public(host)
    except ValueError:
        # What ends in a number, or is written 0x7f.1, is an address to some resolvers.
        last = host.rstrip(".").rpartition(".")[2]
        if last.isdigit() or last.startswith("0x"):
            raise BadUrl("must have a host name, or an address in its usual form") from None
        is_private = last == "localhost"
    if is_private and not allow_private:
        raise BadUrl("points to a private address")

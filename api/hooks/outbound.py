"""Requests to addresses that clients name: sends them nowhere but to where the internet is.

Knows no webhook. A host is resolved once per connection, every address that it has is checked, and
the connection goes to one of those, so a name cannot change its mind in between. Redirects are not
followed, and no proxy of the environment is used.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import httpcore2

from api.hooks.addresses import is_public
from api.hooks.url import Target, parse_url

MAX_RESPONSE_BYTES = 64 << 10
TIMEOUT_S = 10.0
_CONNECT_S = 3.0  # per address, so that a dead one leaves time for the next
_DRAIN_S = 1.0
_NUM_RESOLVERS = 4  # threads; a resolver that hangs cannot be cancelled

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Undelivered(Exception):
    """There was no answer; the message says why, and holds nothing of a private network."""


class Outbound:
    """Sends requests, each over a connection of its own.

    `resolve` gives a host's addresses; `network` and `tls` are for tests.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        timeout_s: float = TIMEOUT_S,
        resolve: Resolve | None = None,
        network: httpcore2.AsyncNetworkBackend | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allow_private = allow_private
        self._timeout_s = timeout_s
        self._guard = _Guard(resolve or _Resolver(), network, allow_private=allow_private)
        self._tls = tls

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status that `url` answers with. Raises BadUrl and Undelivered."""
        target = parse_url(url, allow_private=self._allow_private)
        try:
            return await self._exchange(target, headers, body)
        except TimeoutError as error:
            raise Undelivered(f"no answer within {self._timeout_s:g} s") from error
        except httpcore2.TimeoutException as error:
            raise Undelivered("no connection in time") from error
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            raise Undelivered(_reason(error)) from error

    async def _exchange(self, target: Target, headers: Mapping[str, str], body: bytes) -> int:
        if target.scheme == "https" and self._tls is None:
            self._tls = await asyncio.to_thread(httpcore2.default_ssl_context)
        pool = httpcore2.AsyncConnectionPool(
            ssl_context=self._tls, network_backend=self._guard, max_connections=1
        )
        async with pool:
            async with asyncio.timeout(self._timeout_s):
                response = await pool.handle_async_request(_request(target, headers, body))
            await _drain(response)
            return response.status


def _request(target: Target, headers: Mapping[str, str], body: bytes) -> httpcore2.Request:
    url = httpcore2.URL(
        scheme=target.scheme, host=target.host, port=target.port, target=target.path
    )
    ours = {"host": target.netloc, "content-length": str(len(body)), "connection": "close"}
    return httpcore2.Request("POST", url, headers=[*ours.items(), *headers.items()], content=body)


async def _drain(response: httpcore2.Response) -> None:
    """Let the other side finish, within limits. The status stands, whatever comes behind it."""
    num_bytes = 0
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for chunk in response.aiter_stream():
                num_bytes += len(chunk)
                if num_bytes >= MAX_RESPONSE_BYTES:
                    return
    except (TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
        return
    finally:
        await response.aclose()


class _Guard(httpcore2.AsyncNetworkBackend):
    """Connects to checked addresses only. TLS and the Host header keep the name."""

    def __init__(
        self,
        resolve: Resolve,
        network: httpcore2.AsyncNetworkBackend | None,
        *,
        allow_private: bool,
    ) -> None:
        self._resolve = resolve
        self._network = network or httpcore2.AnyIOBackend()
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to one of the host's addresses. Raises Undelivered for a private one."""
        addresses = await self._resolve(host, port)
        if not self._allow_private and not all(map(is_public, addresses)):
            raise Undelivered(f"{host} has a private address")
        failure: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, _CONNECT_S)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class _Resolver:
    """The system's resolver, in threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_NUM_RESOLVERS, "resolver")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The host's addresses, in order of preference. Raises Undelivered."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._threads, _look_up, host, port)
        except (OSError, UnicodeError) as error:
            raise Undelivered(f"{host} cannot be resolved") from error
        return list(dict.fromkeys(str(ip_address(item[4][0])) for item in found))


def _look_up(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _reason(error: BaseException) -> str:
    """What went wrong, without addresses: the tenant may be shown it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or type(cause).__name__}"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__  # the client hides causes
    return type(error).__name__

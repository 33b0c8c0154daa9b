"""One line a request, when it is over: who, what, how long, how many tokens; never what was said.

Knows no HTTP server.
"""

import os
import sys
import time
from typing import Literal

import msgspec

from api.exchange import Exchange
from api.line_log import LineLog
from workers import contract


class Access(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a line says. `status` 0: the connection went before an answer."""

    time: float
    method: str
    path: str
    status: int
    duration_s: float
    request_id: str
    job_id: str = ""
    tenant: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    error: str = ""  # the code that the job failed with

    @classmethod
    def of(cls, exchange: Exchange) -> "Access":
        """Of a request that is over."""
        end = exchange.end
        usage = end.usage if isinstance(end, contract.Done) else None
        return cls(
            time=round(time.time(), 3),
            method=exchange.method,
            path=exchange.path,
            status=exchange.status,
            duration_s=round(exchange.duration_s, 6),
            request_id=exchange.request_id,
            job_id=exchange.job_id,
            tenant=exchange.tenant,
            prompt_tokens=usage.prompt_tokens if usage else None,
            cached_tokens=usage.cached_tokens if usage else None,
            completion_tokens=usage.completion_tokens if usage else None,
            error=end.code if isinstance(end, contract.Failed) else "",
        )


class AccessLog(LineLog[Access]):
    """Writes to stdout, where the process's own log does not go."""

    def __init__(self, kind: Literal["text", "json"]) -> None:
        self._is_json = kind == "json"
        super().__init__("access log", os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0))

    def note(self, exchange: Exchange) -> None:
        """A request is over."""
        self.add(Access.of(exchange))

    def encode(self, item: Access) -> bytes:
        """One line."""
        if self._is_json:
            return msgspec.json.encode(item) + b"\n"
        return text_line(item)


def text_line(access: Access) -> bytes:
    """`time method path status duration`, then what else there is as `name=value`."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(access.time))
    path = access.path.encode("unicode_escape").decode().replace(" ", "%20")
    words = [stamp, access.method, path, str(access.status), f"{access.duration_s:.3f}s"]
    for name in ("request_id", "job_id", "tenant", "error"):
        if value := getattr(access, name):
            words.append(f"{name}={value.replace(' ', '%20')}")
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        if (count := getattr(access, name)) is not None:
            words.append(f"{name}={count}")
    return " ".join(words).encode("utf-8", "replace") + b"\n"

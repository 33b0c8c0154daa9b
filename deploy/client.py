"""A small HTTP client of our own API: one conversation turn, streamed. Keeps no history."""

import http.client
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

from deploy.errors import StartError

Message = dict[str, str]


class ServerError(Exception):
    """The server refused a request or broke off; the message is the server's own."""


class Client:
    """Talks to one server. `url` is its base, with or without `/v1`."""

    def __init__(self, url: str, *, api_key: str = "", options: Mapping[str, Any]) -> None:
        parts = _parse(url)
        self.url = url
        self._is_tls = parts.scheme == "https"
        self._address = (parts.hostname or "", parts.port)
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._options = dict(options)

    def stream(self, messages: Sequence[Message]) -> Generator[str]:
        """The answer's text, piece by piece. Closing the iterator early cancels the answer.

        Raises ServerError for an error status or a broken stream, StartError if nothing answers.
        """
        connection = self._connect()
        body = json.dumps({**self._options, "messages": list(messages), "stream": True})
        try:
            connection.request("POST", f"{self._path}/v1/chat/completions", body, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise ServerError(_message(response.read()) or f"HTTP {response.status}")
            yield from _deltas(response)
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            raise ServerError(f"the connection broke ({error or type(error).__name__})") from error
        finally:
            connection.close()

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The object that the server answers with. Raises ServerError and StartError."""
        connection = self._connect()
        try:
            data = json.dumps({**self._options, **body})
            connection.request("POST", self._path + path, data, self._headers)
            response = connection.getresponse()
            answer = response.read()
        except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
            raise ServerError(f"the connection broke ({error or type(error).__name__})") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise ServerError(_message(answer) or f"HTTP {response.status}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(*self._address)
        try:
            connection.connect()
        except OSError as error:
            raise StartError(
                f"nothing answers at {self.url} ({error}): start a server with `tramontane serve`, "
                "or name another with --url"
            ) from error
        return connection


def _parse(url: str) -> SplitResult:
    try:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:  # brackets without an end, a port that is none
        raise StartError(_no_address(url)) from error
    if not is_good:
        raise StartError(_no_address(url))
    return parts


def _no_address(url: str) -> str:
    return f"{url!r} is not an address: write it as http://HOST:PORT"


def _deltas(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise ServerError(chunk["error"]["message"])
        for choice in chunk["choices"]:
            yield choice["delta"].get("content") or ""
    raise ServerError("the answer broke off")


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""

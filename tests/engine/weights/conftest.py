"""A Hub that answers huggingface_hub's HTTP requests from memory."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils._http import default_client_factory, hf_request_event_hook

COMMIT = "a" * 40


class FakeHub:
    """The repository `org/tiny` with `files`. `failure` answers every request instead."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.failure: httpx2.Response | Exception | None = None
        self.downloads: list[str] = []
        self.tokens: set[str | None] = set()

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.tokens.add(request.headers.get("authorization"))
        if isinstance(self.failure, Exception):
            raise self.failure
        if self.failure is not None:
            return self.failure
        path = unquote(request.url.path)
        if path.startswith("/api/models/org/tiny/tree/"):
            return self._tree(path.removeprefix("/api/models/org/tiny/tree/"))
        if path.startswith("/api/models/org/tiny"):
            return self._info(path.removeprefix("/api/models/org/tiny"))
        if path.startswith("/org/tiny/resolve/"):
            return self._file(request.method, path.split("/", 5)[5])
        return httpx2.Response(404, headers={"X-Error-Code": "RepoNotFound"})

    def _info(self, revision: str) -> httpx2.Response:
        if revision not in ("", "/revision/main", "/revision/v2"):
            return httpx2.Response(404, headers={"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
        info = {"id": "org/tiny", "sha": COMMIT, "siblings": siblings}
        return httpx2.Response(200, json=info)

    def _tree(self, revision: str) -> httpx2.Response:
        assert revision == COMMIT
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": digest(data)}
            for name, data in self.files.items()
        ]
        return httpx2.Response(200, json=entries)

    def _file(self, method: str, name: str) -> httpx2.Response:
        data = self.files[name]
        headers = {"ETag": f'"{digest(data)}"', "X-Repo-Commit": COMMIT}
        if method == "HEAD":
            return httpx2.Response(200, headers={**headers, "Content-Length": str(len(data))})
        self.downloads.append(name)
        return httpx2.Response(200, headers=headers, content=data)


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake Hub behind the real client, with an empty cache and no token of the machine's own."""
    fake = FakeHub()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    huggingface_hub.set_client_factory(
        lambda: httpx2.Client(
            transport=httpx2.MockTransport(fake),
            event_hooks={"request": [hf_request_event_hook]},
            follow_redirects=True,
        )
    )
    yield fake
    huggingface_hub.set_client_factory(default_client_factory)

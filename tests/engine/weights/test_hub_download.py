"""Downloading over real HTTP, in a process that has nothing but the variables users set."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "b" * 40
CHUNK = 10 * 1024 * 1024  # what huggingface_hub writes at a time
WEIGHTS = bytes(range(256)) * (CHUNK // 256) + b"the end"
FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WEIGHTS}
ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve
reports = []
try:
    files = resolve(ModelRef(model="org/tiny"), lambda done, total: reports.append(done))
except LoadError as error:
    sys.exit(str(error))
print(files.weights[0], reports == sorted(reports), reports[-1] if reports else 0)
"""


class Hub(ThreadingHTTPServer):
    """The repository `org/tiny`; breaks off the first `num_breaks` downloads of the weights."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.num_breaks = 0
        self.sent: list[tuple[int, int]] = []  # of the weights: from, to

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/api/models/org/tiny/tree"):
            self._json([self._entry(name) for name in FILES])
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            self._json({"id": "org/tiny", "sha": COMMIT, "siblings": siblings})
        else:
            self._file(name, FILES[name])

    def _entry(self, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(FILES[name]), "oid": digest(FILES[name])}

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, name: str, data: bytes) -> None:
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{digest(data)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "GET":
            self._send(name, data, start)

    def _send(self, name: str, data: bytes, start: int) -> None:
        end = len(data)
        if data is WEIGHTS:
            if self.server.num_breaks:
                self.server.num_breaks -= 1
                end, self.close_connection = CHUNK + 1, True
            self.server.sent.append((start, end))
        self.wfile.write(data[start:end])


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


def resolve_in_a_process(**variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**inherited, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_download_that_breaks_off_goes_on_where_it_was(server, tmp_path):
    server.num_breaks = 1
    result = resolve_in_a_process(HF_ENDPOINT=server.url, HF_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    path, is_sorted, done = result.stdout.split()
    assert Path(path).read_bytes() == WEIGHTS
    assert Path(path).is_relative_to(tmp_path / "hub")  # HF_HOME is heeded
    assert server.sent == [(0, CHUNK + 1), (CHUNK, len(WEIGHTS))]
    assert (is_sorted, int(done)) == ("True", sum(map(len, FILES.values())))

    offline = resolve_in_a_process(HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stderr) == (0, "")
    assert offline.stdout.split()[0] == path
    elsewhere = resolve_in_a_process(HF_HUB_CACHE=str(tmp_path / "empty"), HF_HUB_OFFLINE="1")
    assert elsewhere.stderr == (
        "org/tiny is not in the cache and HF_HUB_OFFLINE forbids the network: unset it once, or "
        "give a local directory.\n"
    )

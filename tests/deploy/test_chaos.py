"""`tramontane chaos` as a person meets it: the text, the killings, the comparison, no orphans."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest

from deploy import chaos
from deploy.chaos_client import Follower, Piece
from deploy.chaos_stage import Stage

ROOT = Path(__file__).parents[2]


def start(directory, *arguments, **environ):
    """The command in a directory that is not ours, with settings that it must not heed."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "deploy.cli", "chaos", *arguments],
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(directory),
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "PORT": "1",
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def family(process):
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("rounds", [1, pytest.param(2, marks=pytest.mark.nightly)])
def test_it_kills_both_shows_the_whole_text_and_cleans_up(tmp_path, is_gone, rounds):
    process = start(tmp_path, "--streams", "2", "--rounds", str(rounds))
    pids: set[int] = set()
    watcher = threading.Thread(target=watch, args=(process, pids))
    watcher.start()
    output, _ = process.communicate(timeout=110)
    watcher.join()
    assert process.returncode == 0, output
    kills = re.findall(r"\[SIGKILL: API process (\d+), worker (\d+) and its engine", output)
    assert len(kills) == rounds
    assert {int(pid) for pair in kills for pid in pair} <= pids, "real processes died"
    assert output.count("the other API process goes on with event") == rounds
    assert re.search(r"^tokens lost +0$", output, re.MULTILINE)
    assert re.search(r"^tokens doubled +0$", output, re.MULTILINE)
    assert re.search(rf"^answers equal +{2 * rounds} of {2 * rounds}$", output, re.MULTILINE)
    assert pauses(output) > 0.5, "a worker was missed"
    assert all(is_gone(pid) for pid in pids)
    assert list(tmp_path.iterdir()) == []


def watch(process, pids):
    while process.poll() is None:
        try:
            pids |= {child.pid for child in family(process)}
        except psutil.Error:
            return
        time.sleep(0.02)


def pauses(output):
    return float(re.findall(r"time to the next token +([\d.]+) s", output)[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_at_once_and_leaves_nothing(tmp_path, wait_until, is_gone, number):
    process = start(tmp_path)
    with process:
        wait_until(lambda: len(family(process)) >= 5, 60)
        children = family(process)
        process.send_signal(number)
        assert process.wait(30) == 130
    wait_until(lambda: all(is_gone(child.pid) for child in children))
    assert list(tmp_path.iterdir()) == []


def test_the_worker_that_has_the_answers_is_killed_though_its_gauges_come_late():
    idle, busy = (SimpleNamespace(pid=pid) for pid in (1, 2))
    beats = iter([{1: 0, 2: 0}, {}, {1: 0, 2: 2}])

    def heartbeats(api):
        return {pid: {"running": running} for pid, running in next(beats).items()}

    stage: Any = SimpleNamespace(apis=[None], workers=[idle, busy], _heartbeats=heartbeats)
    assert Stage.busiest(stage, 2).pid == busy.pid


def test_nonsense_is_refused(tmp_path):
    process = start(tmp_path, "--streams", "0")
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert output.startswith("tramontane: --streams: 0 is less than 1")


def pieces(*numbers):
    return [Piece(number, f"{number} ", float(number)) for number in numbers]


def answer(*numbers, num_ends=1, error=""):
    follower = Follower([], {})
    follower.pieces = pieces(*numbers)
    follower.num_ends = num_ends
    follower.error = error
    return follower


@pytest.mark.parametrize(
    ("got", "lost", "doubled"),
    [
        (answer(1, 2, 3, 4), 0, 0),
        (answer(1, 2, 4), 1, 0),
        (answer(1, 2, 2, 3, 4), 0, 1),
        (answer(1, 2, 3), 1, 0),
        (answer(1, 2, 3, 4, num_ends=0), 0, 0),
        (answer(1, 2, 3, 4, error="gone"), 0, 0),
    ],
    ids=["whole", "a hole", "a repeat", "cut short", "no end", "an error"],
)
def test_only_the_whole_answer_is_good(got, lost, doubled, capsys):
    result = chaos._compare(got, answer(1, 2, 3, 4), killed_s=2.5)
    is_whole = (lost, doubled, got.num_ends, got.error) == (0, 0, 1, "")
    assert (result.num_lost, result.num_doubled) == (lost, doubled)
    assert result.is_good == is_whole
    assert chaos._report([result]) == (0 if is_whole else 1)
    assert f"tokens lost              {lost}\n" in capsys.readouterr().out


def test_an_answer_that_was_over_before_the_killing_shows_nothing():
    assert not chaos._compare(answer(1, 2), answer(1, 2), killed_s=9.0).is_good


class _Breaking(BaseHTTPRequestHandler):
    """Breaks off in the middle of a frame, then refuses once, then says the rest."""

    paths: ClassVar[list[tuple[str, str | None]]]

    def log_message(self, *unused):
        pass

    def do_POST(self):
        self._answer(
            b'id: 1\ndata: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
            b"id: 2\nda"
        )

    def do_GET(self):
        if len(self.paths) == 1:
            self.paths.append((self.path, "503"))
            self.send_error(503)
        else:
            self._answer(
                b'id: 2\ndata: {"choices":[{"delta":{"content":"b"},"finish_reason":"length"}]}\n\n'
                b"id: 3\ndata: [DONE]\n\n"
            )

    def _answer(self, body):
        self.paths.append((self.path, self.headers["Last-Event-ID"]))
        self.send_response(200)
        self.send_header("x-job-id", "j")
        self.end_headers()
        self.wfile.write(body)


def test_the_client_goes_on_behind_the_last_whole_frame():
    class Handler(_Breaking):
        paths: ClassVar[list[tuple[str, str | None]]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        follower = Follower([server.server_port], {}, deadline_s=20)
        follower.start()
        follower.join(20)
        server.shutdown()
    assert follower.text == "ab"
    assert (follower.num_ends, follower.error) == (1, "")
    assert Handler.paths == [
        ("/v1/chat/completions", None),
        ("/v1/jobs/j/events", "503"),
        ("/v1/jobs/j/events", "1"),
    ]

"""`tramontane serve` as a person meets it: checks, ready line, Ctrl-C, crashes, no orphans."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deploy import cli
from deploy.client import Client, ServerError
from deploy.errors import StartError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


class Serve:
    """A running `tramontane serve` with a scripted engine, its output in a file."""

    def __init__(self, directory: Path, *arguments: str, **environ: str) -> None:
        self.output = directory / "output"
        self.pids: set[int] = set()
        clean = {k: v for k, v in os.environ.items() if k not in ("REDIS_URL", "PORT")}
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "deploy.cli", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={
                    **clean,
                    "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE))),
                    "TRAMONTANE_ENGINE": "scripted_engine:load",
                    "TRAMONTANE_DATA_DIR": str(directory / "data"),
                    **environ,
                },
                cwd=directory,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    @property
    def url(self) -> str:
        return str(re.findall(r"http://[\d.]+:\d+$", self.text, re.MULTILINE)[-1])

    def num_ready(self) -> int:
        self.note_children()
        assert self.process.poll() is None, self.text
        return self.text.count("tramontane: ready: ")

    def note_children(self) -> dict[str, int]:
        """Process ids by what the processes are, remembered for `all_gone`."""
        found: dict[str, int] = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            self.pids.add(child.pid)
            try:
                line = " ".join(child.cmdline())
            except psutil.Error:
                continue
            for name in ("valkey-server", "redis-server", "workers.engine_child", "gunicorn"):
                if name in line:
                    found.setdefault(name, child.pid)
            if line.endswith("-m workers"):
                found["worker"] = child.pid
        return found

    def ask(self, max_tokens: int = 3) -> str:
        return "".join(Client(self.url, options={"max_tokens": max_tokens}).stream(QUESTION))

    def interrupt(self) -> int:
        self.note_children()
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


QUESTION = [{"role": "user", "content": "Hello"}]
Start = Callable[..., Serve]


@pytest.fixture
def start(tmp_path: Path, wait_until) -> Iterator[Start]:
    started: list[Serve] = []

    def start(*arguments: str, is_ready: bool = True, **environ: str) -> Serve:
        serve = Serve(tmp_path, *arguments, **environ)
        started.append(serve)
        if is_ready:
            wait_until(serve.num_ready, 60)
        return serve

    yield start
    for serve in started:
        serve.process.kill()
        serve.process.wait()


def can_answer(serve: Serve) -> bool:
    try:
        return bool(serve.ask())
    except (ServerError, StartError):
        return False


def test_it_says_what_it_serves_answers_and_leaves_nothing(start, is_gone, wait_until) -> None:
    serve = start("--port", "0", "serve")
    assert re.search(
        r"ready: tramontane-tiny · context 4,096 tokens · KV cache 8,192 tokens · "
        r"scripted float32 · http://127\.0\.0\.1:\d+",
        serve.text,
    )
    assert serve.ask()
    assert set(serve.note_children()) >= {"worker", "gunicorn", "workers.engine_child"}
    assert serve.interrupt() == 0
    assert len(serve.pids) >= 5
    wait_until(lambda: all(is_gone(pid) for pid in serve.pids))


def test_ctrl_c_in_mid_stream_stops_within_seconds(start, is_gone, wait_until) -> None:
    serve = start("--port", "0", "serve")
    stream = Client(serve.url, options={"max_tokens": 4000}).stream(QUESTION)
    next(stream)
    began = time.monotonic()
    assert serve.interrupt() == 0
    assert time.monotonic() - began < 12
    wait_until(lambda: all(is_gone(pid) for pid in serve.pids))
    stream.close()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_no_process_outlives_a_killed_supervisor(start, is_gone, wait_until) -> None:
    serve = start("--port", "0", "serve")
    serve.process.kill()
    wait_until(lambda: all(is_gone(pid) for pid in serve.pids), 10)


def test_what_is_killed_comes_back(start, is_gone, wait_until) -> None:
    serve = start("--port", "0", "serve")
    before = serve.note_children()
    redis = "redis-server" if "redis-server" in before else "valkey-server"
    for name in ("worker", redis, "gunicorn"):
        os.kill(before[name], signal.SIGKILL)
    wait_until(lambda: serve.note_children().get("worker", before["worker"]) != before["worker"])
    wait_until(lambda: can_answer(serve), 40)
    after = serve.note_children()
    assert not {after[name] for name in after} & {before[name] for name in before}
    assert "the worker process was killed by SIGKILL; starting it again" in serve.text
    assert "Redis died; starting it again" in serve.text
    assert serve.interrupt() == 0
    wait_until(lambda: all(is_gone(pid) for pid in serve.pids))


def test_a_model_that_does_not_load_ends_it_with_its_sentence(start, is_gone, wait_until) -> None:
    serve = start(
        "--port", "0", "serve", is_ready=False, TRAMONTANE_ENGINE="scripted_engine:refuse"
    )
    while serve.process.poll() is None:
        serve.note_children()
        time.sleep(0.02)
    assert serve.process.returncode == 2
    assert serve.text.count("The weights are made of cheese; choose others.") == 1
    wait_until(lambda: all(is_gone(pid) for pid in serve.pids))


def test_a_second_serve_on_the_same_data_is_refused(start, tmp_path: Path) -> None:
    serve = start("--port", "0", "serve")
    (tmp_path / "second").mkdir()
    second = Serve(
        tmp_path / "second", "--port", "0", "serve", TRAMONTANE_DATA_DIR=str(tmp_path / "data")
    )
    assert second.process.wait(20) == 2
    assert f"in use by process {serve.process.pid}: stop that one" in second.text
    assert serve.ask()


def write_model(directory: Path, architecture: str) -> None:
    directory.mkdir()
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    config = {
        "architectures": [architecture],
        **dict.fromkeys((*sizes, "num_attention_heads", "max_position_embeddings"), 8),
        "rms_norm_eps": 1e-5,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(b"")


@pytest.fixture
def _own_signals() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("plain -m ./missing/model", "neither a directory nor a repository"),
        ("plain -m .", "has no config.json"),
        ("gguf -m . -f missing.gguf", "no GGUF file to serve, so not missing.gguf"),
        ("plain -m ./model", "architecture FooForCausalLM is not supported"),
        ("--host 192.0.2.1 serve", "cannot listen on 192.0.2.1"),
        ("--request-logging-file ./none/log serve", "request log ./none/log cannot be written: No"),
        ("--request-logging-file ./model serve", "request log ./model cannot be written: Is a dir"),
        ("--redis-server-bin ./model serve", "is not a Redis server that runs here"),
        ("--redis-url redis://127.0.0.1:1/0 serve", "Redis at redis://127.0.0.1:1/0 cannot be"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    arguments: str, sentence: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    write_model(tmp_path / "model", "FooForCausalLM")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "0")
    monkeypatch.setenv("REDIS_URL", "")
    monkeypatch.setenv("TRAMONTANE_DATA_DIR", str(tmp_path / "data"))
    assert cli.main(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tramontane: ")
    assert sentence in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not (tmp_path / "data" / "appendonlydir").exists()


def test_a_repository_that_cannot_be_reached_is_named(start, tmp_path: Path) -> None:
    serve = start("plain", "-m", "org/name", is_ready=False, PORT="0", HF_HUB_OFFLINE="1")
    assert serve.process.wait(20) == 2
    assert serve.text.startswith("tramontane: org/name is not in the cache")
    assert len(serve.text.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_is_named(start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        serve = start("--host", "127.0.0.1", "--port", str(port), is_ready=False)
        assert serve.process.wait(20) == 2
    assert serve.text == (
        f"tramontane: port {port} is in use: stop the program that has it, "
        "or choose another with --port\n"
    )
    assert not (tmp_path / "data").exists()

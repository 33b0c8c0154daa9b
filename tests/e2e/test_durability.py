"""What outlives a connection or a process: freed sequences, resumed streams, a killed worker."""

import contextlib
import json
import signal
import socket
import time

import httpx2
import psutil
import pytest

STORY = {
    "model": "any",
    "messages": [{"role": "user", "content": "Tell me a long story."}],
    "temperature": 0,
    "max_tokens": 400,
    "ignore_eos": True,
    "stream": True,
}


def read_frames(lines):
    """(event id, text) of each SSE frame up to [DONE]."""
    event_id = None
    for line in lines:
        if line.startswith("id: "):
            event_id = int(line[4:])
        elif line == "data: [DONE]":
            return
        elif line.startswith("data: "):
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            for choice in chunk["choices"]:
                yield event_id, choice["delta"].get("content") or ""


def gauges(url):
    return httpx2.get(url + "/ready").json()["workers"]


def running(url):
    return sum(w["running"] + w["waiting"] for w in gauges(url))


@pytest.fixture
def whole(api_url):
    answer = httpx2.post(
        api_url + "/v1/chat/completions", json=STORY | {"stream": False}, timeout=60
    )
    return answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "plain"])
def test_a_dropped_connection_frees_the_sequences(api_url, wait, stream):
    wait(lambda: running(api_url) == 0, "idle before the test")
    # Sixteen long choices keep the worker busy for far longer than the test waits.
    body = json.dumps(STORY | {"stream": stream, "max_tokens": 900, "n": 16}).encode()
    host, port = api_url.removeprefix("http://").split(":")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        wait(lambda: running(api_url) > 0, "the gauge shows the sequences", 5)
        began = time.monotonic()
    wait(lambda: running(api_url) == 0, "the sequences are freed", 3)
    assert time.monotonic() - began < 3
    assert all(w["kv_blocks_used"] == 0 for w in gauges(api_url))


def test_last_event_id_resumes_on_another_api_process(stack, wait, other_api_url, whole):
    url, process = stack.start_api()
    _wait_ready(wait, url)
    got, job_id = read_until_killed(url, process)
    last = got[-1][0]
    with httpx2.stream(
        "GET",
        f"{other_api_url}/v1/jobs/{job_id}/events",
        headers={"Last-Event-ID": str(last)},
        timeout=30,
    ) as r:
        assert r.status_code == 200
        rest = list(read_frames(r.iter_lines()))
    assert rest[0][0] > last
    assert "".join(text for _, text in got + rest) == whole


def test_a_stream_can_be_read_again_from_any_event(api_url, other_api_url, whole):
    with httpx2.stream("POST", api_url + "/v1/chat/completions", json=STORY, timeout=60) as r:
        job_id = r.headers["x-job-id"]
        frames = list(read_frames(r.iter_lines()))
    assert "".join(text for _, text in frames) == whole
    for last in (-1, 0, 1, len(frames) // 2, frames[-1][0]):
        headers = {"Last-Event-ID": str(last)} if last >= 0 else {}
        again = httpx2.get(f"{other_api_url}/v1/jobs/{job_id}/events", headers=headers)
        texts = [f for f in read_frames(again.text.splitlines()) if f[1]]
        assert texts == [f for f in frames if f[0] > last and f[1]]


def test_a_killed_worker_costs_no_token(stack, api_url, wait, whole):
    first = stack.worker
    got = []
    with httpx2.stream("POST", api_url + "/v1/chat/completions", json=STORY, timeout=60) as r:
        for frame in read_frames(r.iter_lines()):
            got.append(frame)
            if len(got) == 20:
                kill_tree(first)
                stack.start_worker()
    ids = [event_id for event_id, text in got if text]
    assert ids == sorted(set(ids))
    assert "".join(text for _, text in got) == whole


def read_until_killed(url, process):
    """The frames a client got before its API process was killed, and the job id."""
    got = []
    with (
        contextlib.suppress(httpx2.TransportError),
        httpx2.stream("POST", url + "/v1/chat/completions", json=STORY, timeout=30) as r,
    ):
        job_id = r.headers["x-job-id"]
        for frame in read_frames(r.iter_lines()):
            got.append(frame)
            if len(got) == 20:
                kill_tree(process)
    assert len(got) < 400, "the kill came too late to test anything"
    return got, job_id


def _wait_ready(wait, url):
    def ready():
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(url + "/ready", timeout=2).status_code == 200
        return False

    wait(ready, "the API is ready")


def kill_tree(process):
    """SIGKILL a process and all it started, children first so that none can be handed over."""
    parent = psutil.Process(process.pid)
    for child in [*parent.children(recursive=True), parent]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGKILL)
    process.wait()

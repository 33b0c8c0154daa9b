"""gunicorn's part: a clean drain, small processes, the command line."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from api.config import ApiConfig
from api.server import command

ROOT = Path(__file__).parents[2]
CHAT = "/v1/chat/completions"


@pytest.fixture
def server(api_redis, fake_worker, directory, start_api, wait):
    server = start_api(api_redis.url, directory, graceful_timeout_s=3)
    wait(lambda: server.get("/ready").status == 200, "the worker is known")
    yield server
    if server.process.poll() is None:
        server.stop(signal.SIGQUIT)


@pytest.fixture
def fast(api_redis, fake_worker, directory, start_api, wait):
    """It gives its streams no time."""
    server = start_api(api_redis.url, directory, graceful_timeout_s=2)
    wait(lambda: server.get("/ready").status == 200, "the worker is known")
    yield server
    if server.process.poll() is None:
        server.kill()


@contextlib.contextmanager
def posted(server, prompt, headers=None, **fields):
    connection = server.connect()
    connection.request("POST", CHAT, json.dumps({"messages": prompt, **fields}), headers or {})
    with contextlib.closing(connection):
        yield connection


def test_sigterm_lets_streams_finish(server):
    with posted(server, "count 20", stream=True) as connection:
        response = connection.getresponse()
        received = response.read1(100)
        server.process.send_signal(signal.SIGTERM)
        received += response.read()
    assert b"19 " in received
    assert received.endswith(b"data: [DONE]\n\n")
    assert server.process.wait(10) == 0


def test_a_stream_that_does_not_finish_in_time_ends_so_that_it_can_be_resumed(
    server, api, fake_worker, frames
):
    idle = server.connect()
    idle.request("GET", "/health")
    idle.getresponse().read()
    with posted(server, "hang on", stream=True) as connection:
        response = connection.getresponse()
        received = response.read1(65536)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        idle.request("GET", "/ready")
        reply = idle.getresponse()
        assert (reply.status, json.loads(reply.read())["status"]) == (503, "draining")
        assert int(reply.headers["retry-after"]) >= 1
        idle.close()
        received += response.read()  # raises IncompleteRead if the end is not clean
    numbers = [number for number, _ in frames(received)]
    assert numbers == [0, 1]
    assert b": draining" in received
    assert b"error" not in received
    assert b"[DONE]" not in received
    assert server.process.wait(10) == 0
    job_id = response.headers["x-job-id"]
    assert job_id not in fake_worker.cancelled
    connection = api.connect()
    connection.request("GET", f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "0"})
    with contextlib.closing(connection), connection.getresponse() as response:
        while b"id: 1\n" not in response.read1(65536):
            pass
    api.request("DELETE", f"/v1/jobs/{job_id}")


def test_a_whole_answer_that_does_not_finish_in_time_is_given_up_for_its_client_asks_again(
    fast, fake_worker, wait
):
    client = openai.OpenAI(base_url=f"{fast.url}/v1", api_key="none", max_retries=9)
    prompt = "count 307"
    messages: Any = [{"role": "user", "content": prompt}]
    with ThreadPoolExecutor(1) as pool, client:
        create = client.chat.completions.create
        asking = pool.submit(lambda: create(model="any", messages=messages))
        wait(lambda: jobs_of(fake_worker, prompt), "it runs")
        (first,) = jobs_of(fake_worker, prompt)
        assert fast.stop() == 0
        fast.start()
        answer = asking.result(30)
    assert answer.choices[0].message.content == "".join(f"{i} " for i in range(307))
    assert jobs_of(fake_worker, prompt) == [first, answer.id]
    assert first in fake_worker.cancelled


def test_a_whole_answer_with_a_key_goes_on_without_its_server(fast, api, fake_worker, wait):
    headers = {"Idempotency-Key": "for-ever"}
    with posted(fast, "hang for ever", headers) as connection:
        wait(lambda: jobs_of(fake_worker, "hang for ever"), "it runs")
        fast.process.send_signal(signal.SIGTERM)
        response = connection.getresponse()
        assert response.status == 503
        assert json.loads(response.read())["error"]["code"] == "draining"
    assert fast.process.wait(10) == 0
    job_id = response.headers["x-job-id"]
    assert response.headers["location"] == f"/v1/jobs/{job_id}"
    job = api.get(response.headers["location"]).json
    assert job["state"] == "running"
    assert job["partial"]["choices"][0]["message"]["content"] == "then nothing"
    assert job_id not in fake_worker.cancelled
    assert api.request("DELETE", f"/v1/jobs/{job_id}").json["state"] == "cancelled"


def jobs_of(worker, prompt):
    specs = list(worker.specs.values())
    return [s.id for s in specs if s.messages and s.messages[-1]["content"] == prompt]


def test_a_killed_worker_process_is_replaced(server, wait):
    first = server.worker
    first.kill()
    wait(lambda: server.is_up() and server.worker.pid != first.pid, "another one serves")
    assert server.chat("echo hi").status == 200


def test_the_process_stays_small_and_idle(api):
    for _ in range(5):
        api.chat("burst 1000", stream=True)
    memory = api.worker.memory_info().rss
    assert memory < 120e6, f"{memory / 1e6:.0f} MB"


def test_importing_the_app_loads_no_torch():
    code = "import api.app, api.server, sys; print({'torch', 'engine', 'arq'} & {*sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == b"set()"


def test_the_command_line_follows_the_settings():
    line = command(ApiConfig(host="::1", port=99, web_concurrency=3, log="warn"))
    assert line[0] == sys.executable
    assert {"--bind=[::1]:99", "--workers=3", "--log-level=warning"} <= set(line)
    assert "--worker-class=api.server.Worker" in line
    assert line[-1] == "api.app:create_app()"


def test_gunicorn_still_has_what_the_worker_overrides():
    from gunicorn.workers.gasgi import ASGIWorker

    assert callable(ASGIWorker.handle_exit_signal)
    assert callable(ASGIWorker.handle_quit_signal)

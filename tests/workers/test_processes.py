"""Real worker processes on a real Redis: killed, frozen, drained, cut off. No token is lost."""

import asyncio
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
import redis

from tests.workers.wire import (
    Wire,
    check_log,
    has_tokens,
    ids_of,
    make_job,
    scripted_ids,
    text_of,
    text_of_ids,
)
from workers.__main__ import main
from workers.contract import Fence

NUM_JOBS, NUM_TOKENS = 12, 100


@pytest.fixture
async def jobs(wire):
    return [make_job(f"j{n}", seed=n, max_tokens=NUM_TOKENS) for n in range(NUM_JOBS)]


async def start_all(wire: Wire, jobs) -> None:
    for job in jobs:
        await wire.enqueue(job)
    for job in jobs:
        await wire.until(has_tokens(5), job.id)


async def check_all(wire: Wire, jobs, text, model_files) -> int:
    """Every log is what one uninterrupted worker would have written. Returns the fences."""
    fences = 0
    for job in jobs:
        events = await wire.finished(job.id)
        check_log(events)
        expected = scripted_ids(model_files, job)
        assert ids_of(events) == expected
        assert text_of(events) == text_of_ids(text, expected)
        fences += sum(isinstance(event, Fence) for event in events)
    return fences


async def test_another_worker_goes_on_after_kill_9(
    processes, wire, redis_url, jobs, text, model_files
):
    first, _ = processes.start_ready(redis_url, 2, TRAMONTANE_MAX_SEQS="16")
    await start_all(wire, jobs)
    began_s = time.monotonic()
    first.kill()
    assert await check_all(wire, jobs, text, model_files) > 0, processes.logs()
    assert time.monotonic() - began_s < 10


async def test_a_frozen_worker_that_wakes_late_writes_nothing(
    processes, wire, redis_url, jobs, text, model_files
):
    (frozen,) = processes.start_ready(redis_url)
    await start_all(wire, jobs)
    frozen.send_signal(signal.SIGSTOP)
    processes.start_ready(redis_url)
    for job in jobs:
        await wire.until(lambda events: any(isinstance(e, Fence) for e in events), job.id)
    frozen.send_signal(signal.SIGCONT)
    assert await check_all(wire, jobs, text, model_files) >= NUM_JOBS
    assert frozen.poll() is None
    await wire.enqueue(make_job("after"))
    check_log(await wire.finished("after"))


async def test_sigterm_hands_over_and_exits_0(processes, wire, redis_url, jobs, text, model_files):
    (first,) = processes.start_ready(redis_url, 1, TRAMONTANE_DRAIN_S="0.2")
    await start_all(wire, jobs)
    first.terminate()
    assert await asyncio.to_thread(first.wait, 5) == 0
    names = await wire.client.zrange("workers", 0, -1)
    assert not [name for name in names if f"-{first.pid}-".encode() in name]
    processes.start_ready(redis_url)
    assert await check_all(wire, jobs, text, model_files) == NUM_JOBS


@pytest.mark.parametrize("how", ["restart", "kill"])
async def test_a_redis_outage_loses_nothing(processes, redis_server, how, text, model_files):
    wire = Wire(redis_server.url)
    jobs = [make_job(f"j{n}", seed=n, max_tokens=NUM_TOKENS) for n in range(NUM_JOBS)]
    (worker,) = processes.start_ready(redis_server.url)
    await start_all(wire, jobs)
    if how == "restart":
        redis_server.restart(down_s=1.2)  # longer than a lease
    else:
        redis_server.kill()
        redis_server.start()
    await check_all(wire, jobs, text, model_files)
    assert worker.poll() is None
    await wire.enqueue(make_job("after"))
    check_log(await wire.finished("after"))
    await wire.client.aclose()


async def test_cut_connections_and_a_lost_tail_lose_nothing(
    processes, wire, redis_url, jobs, text, model_files
):
    processes.start_ready(redis_url)
    await start_all(wire, jobs)
    with redis.Redis.from_url(redis_url) as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        for job in jobs:
            admin.rpop(f"log:{job.id}", 5)
    await check_all(wire, jobs, text, model_files)
    await wire.enqueue(make_job("after"))
    check_log(await wire.finished("after"))


async def test_an_engine_crash_is_survived_by_its_jobs(
    processes, wire, redis_url, jobs, text, model_files, tmp_path
):
    crash = tmp_path / "crash"
    (worker,) = processes.start_ready(redis_url, 1, SCRIPTED_CRASH_FILE=str(crash))
    await start_all(wire, jobs)
    crash.touch()
    assert await check_all(wire, jobs, text, model_files) == NUM_JOBS
    assert worker.poll() is None
    assert "scripted crash" in processes.logs()


def test_an_idle_worker_is_quiet_small_and_dies_whole(processes, redis_url):
    (worker,) = processes.start_ready(redis_url)
    (child,) = psutil.Process(worker.pid).children()
    family = [psutil.Process(worker.pid), child]
    time.sleep(0.5)
    before = sum(sum(process.cpu_times()[:2]) for process in family)
    time.sleep(2)
    used_s = sum(sum(process.cpu_times()[:2]) for process in family) - before
    assert used_s / 2 <= 0.02  # 1 %, and one tick of the clock on either side
    assert "libtorch" not in Path(f"/proc/{worker.pid}/maps").read_text()
    worker.kill()
    worker.wait()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running()


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"TRAMONTANE_MAX_SEQS": "none"}, "TRAMONTANE_MAX_SEQS"),
        ({"REDIS_URL": "http://x"}, "REDIS_URL"),
        ({"TRAMONTANE_MODEL": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
    ids=["setting", "redis url", "model"],
)
def test_a_worker_that_cannot_start_says_one_sentence(monkeypatch, capsys, environ, sentence):
    monkeypatch.setattr("workers.__main__.configure", lambda level: None)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tramontane worker: ")
    assert sentence in line


def test_a_worker_whose_model_does_not_load_exits_2_with_the_engine_s_sentence(
    processes, redis_url
):
    process = processes.start(
        redis_url, SCRIPTED_LOAD_ERROR="No such weights.", TRAMONTANE_LOG="error"
    )
    assert process.wait(20) == 2
    assert processes.logs() == "tramontane worker: No such weights.\n"


async def test_a_worker_s_port_tells_what_it_has_done(processes, wire, redis_url):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    processes.start_ready(redis_url, TRAMONTANE_METRICS_PORT=str(port))
    await wire.enqueue(make_job("j", max_tokens=5))
    await wire.finished("j")
    text = ""
    while "vllm:request_success_total{" not in text:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
    body = text.partition("\r\n\r\n")[2].splitlines()
    samples = [line for line in body if not line.startswith("#")]
    shown = {line.partition("{")[0]: float(line.split()[-1]) for line in samples}
    assert shown["vllm:generation_tokens_total"] == 5
    assert shown["vllm:inter_token_latency_seconds_count"] == 4
    first, whole = (
        shown[f"vllm:{name}_seconds_sum"] for name in ("time_to_first_token", "e2e_request_latency")
    )
    assert 0 < first <= whole < 60

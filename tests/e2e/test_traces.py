"""One trace from a client through API and worker, whatever happens to the job on its way."""

import json
import tempfile
import uuid
from pathlib import Path

import httpx2
import pytest

from tests.e2e.conftest import Stack, is_ready
from tests.otlp_receiver import Receiver

CHAT = "/v1/chat/completions"
BODY = {
    "model": "any",
    "messages": [{"role": "user", "content": "Tell me the secret of the old mill."}],
    "temperature": 0,
    "max_tokens": 16,
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def receiver():
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(_shared_redis, receiver):
    """A deployment of its own that tells this collector."""
    with (
        tempfile.TemporaryDirectory(prefix="tr-") as data,
        tempfile.TemporaryDirectory(prefix="tr-e2e-") as directory,
    ):
        redis = type(_shared_redis)(Path(data))
        redis.start()
        stack = Stack(redis.url, Path(directory))
        stack.environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        stack.start_worker()
        yield stack
        stack.stop()
        redis.stop()


@pytest.fixture(scope="module")
def url(traced, wait):
    url, _ = traced.start_api()
    wait(lambda: is_ready(url), "the API and the worker are ready", 60)
    return url


@pytest.fixture
def trace():
    return uuid.uuid4().hex


def headers(trace, **more):
    return {"traceparent": f"00-{trace}-{'b' * 16}-01", **more}


def wait_for_spans(wait, receiver, trace, *names):
    def are_there():
        return sorted(receiver.names(trace)) == sorted(names)

    try:
        wait(are_there, f"the spans {names}", 30)
    except AssertionError as error:
        raise AssertionError(f"{error}; there are {receiver.names(trace)}") from None
    return {span.name: span for span in receiver.of_trace(trace)}


SERVER = f"POST {CHAT}"
JOB = ("queue", "chat tramontane-tiny", "prefill", "generate")


def test_a_trace_goes_from_the_client_through_the_api_into_the_worker(url, receiver, wait, trace):
    answer = httpx2.post(url + CHAT, json=BODY, headers=headers(trace), timeout=60)
    assert answer.status_code == 200
    spans = wait_for_spans(wait, receiver, trace, SERVER, *JOB)
    server, queue, attempt = spans[SERVER], spans["queue"], spans[JOB[1]]
    assert server.parent_id == "b" * 16
    assert queue.parent_id == attempt.parent_id == server.span_id
    assert spans["prefill"].parent_id == spans["generate"].parent_id == attempt.span_id
    assert (server.service, attempt.service) == ("tramontane-api", "tramontane-worker")
    usage = answer.json()["usage"]
    assert attempt.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert attempt.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"] == 16
    assert attempt.attributes["gen_ai.response.finish_reasons"] == ["length"]
    for span in (server, queue, attempt):
        assert span.attributes["tramontane.job.id"] == answer.headers["x-job-id"]
    said = b"".join(receiver.bodies)
    assert b"old mill" not in said
    assert answer.json()["choices"][0]["message"]["content"].encode()[:20] not in said


def test_work_that_nobody_waits_for_stays_in_the_trace_of_its_request(url, receiver, wait, trace):
    prefer = headers(trace, prefer="respond-async")
    assert httpx2.post(url + CHAT, json=BODY, headers=prefer, timeout=60).status_code == 202
    spans = wait_for_spans(wait, receiver, trace, SERVER, *JOB)
    assert spans[JOB[1]].parent_id == spans[SERVER].span_id


def test_a_batchs_lines_are_in_the_trace_of_the_batch(url, receiver, wait, trace):
    lines = [{"custom_id": str(n), "method": "POST", "url": CHAT, "body": BODY} for n in range(2)]
    data = "\n".join(map(json.dumps, lines)).encode()
    file = httpx2.post(url + "/v1/files", data={"purpose": "batch"}, files={"file": data})
    asked = {
        "input_file_id": file.json()["id"],
        "endpoint": CHAT,
        "completion_window": "24h",
    }
    batch = httpx2.post(url + "/v1/batches", json=asked, headers=headers(trace))
    spans = wait_for_spans(wait, receiver, trace, "POST /v1/batches", *JOB, *JOB)
    attempts = [s for s in receiver.of_trace(trace) if s.name == JOB[1]]
    assert {s.attributes["tramontane.batch.id"] for s in attempts} == {batch.json()["id"]}
    assert sorted(s.attributes["tramontane.batch.line"] for s in attempts) == [1, 2]
    assert {s.parent_id for s in attempts} == {spans["POST /v1/batches"].span_id}


def test_the_attempt_after_a_crash_goes_on_in_the_same_trace(traced, url, receiver, wait, trace):
    long = BODY | {"stream": True, "max_tokens": 900}
    first, num_chunks = traced.worker, 0
    with httpx2.stream("POST", url + CHAT, json=long, headers=headers(trace), timeout=60) as r:
        for line in r.iter_lines():
            num_chunks += line.startswith("data: ")
            if num_chunks > 20 and "queue" in receiver.names(trace) and first.poll() is None:
                first.kill()
                first.wait()
                traced.start_worker()
    # The dead worker told of the queue, and of nothing that it was at.
    spans = wait_for_spans(wait, receiver, trace, SERVER, *JOB)
    attempt = spans[JOB[1]]
    assert attempt.parent_id == spans[SERVER].span_id
    assert attempt.attributes["tramontane.attempt"] == 2
    assert attempt.attributes["tramontane.tokens.replayed"] > 0
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 900

"""Streams and whole answers over real HTTP: shape, numbers, pings, disconnects, slow readers."""

import asyncio
import contextlib
import json
import socket
import time
import typing

import pytest
import redis

CHAT = "/v1/chat/completions"


def chunks(frames):
    return [data for _, data in frames if data != "[DONE]"]


def said(frames, choice=0):
    choices = [c for chunk in chunks(frames) for c in chunk["choices"] if c["index"] == choice]
    return "".join(c["delta"].get("content") or "" if "delta" in c else c["text"] for c in choices)


def finishes(frames):
    return [c["finish_reason"] for chunk in chunks(frames) for c in chunk["choices"]]


@contextlib.contextmanager
def open_stream(api, prompt, **fields):
    connection = api.connect()
    body = {"messages": [{"role": "user", "content": prompt}], "stream": True, **fields}
    connection.request("POST", CHAT, json.dumps(body))
    with contextlib.closing(connection), connection.getresponse() as response:
        yield response


def is_cancelled(worker, job_id):
    return lambda: job_id in worker.cancelled


def test_a_chat_is_answered_in_one_piece(api):
    reply = api.chat("echo one two", n=2)
    assert reply.status == 200
    answer = reply.json
    assert answer["id"].startswith("chatcmpl-")
    assert answer["id"] == reply.headers["x-job-id"]
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny/demo", "the served model, whatever the request called it"
    assert answer["system_fingerprint"] == "fp_test"
    assert [c["message"]["content"] for c in answer["choices"]] == ["one two ", "one two "]
    assert [c["message"]["role"] for c in answer["choices"]] == ["assistant", "assistant"]
    assert [c["finish_reason"] for c in answer["choices"]] == ["stop", "stop"]
    assert answer["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


def test_a_text_completion_is_answered_in_one_piece(api):
    body = {"model": "x", "prompt": ["echo a b", "echo c"], "n": 2}
    answer = api.request("POST", "/v1/completions", body).json
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
    assert {c["text"] for c in answer["choices"]} == {"a b "}


def test_a_chat_stream_has_openais_shape_and_a_number_per_event(api):
    reply = api.chat("echo one two three", stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache, no-transform"
    assert reply.headers["x-accel-buffering"] == "no"
    assert [number for number, _ in reply.frames] == [0, 1, 2, 3, 4]
    first, *_ = chunks(reply.frames)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {c["id"] for c in chunks(reply.frames)} == {reply.headers["x-job-id"]}
    assert {c["object"] for c in chunks(reply.frames)} == {"chat.completion.chunk"}
    assert {c["model"] for c in chunks(reply.frames)} == {"tiny/demo"}
    assert len({c["created"] for c in chunks(reply.frames)}) == 1
    assert all("usage" not in c and c["choices"] for c in chunks(reply.frames))
    assert finishes(reply.frames) == [None, None, None, "stop"]
    assert said(reply.frames) == "one two three "
    assert reply.frames[-1][1] == "[DONE]"


def test_each_choice_has_its_own_role_text_and_end(api):
    reply = api.chat("echo one two", stream=True, n=3)
    for choice in range(3):
        assert said(reply.frames, choice) == "one two "
    assert finishes(reply.frames).count("stop") == 3


def test_usage_comes_last_and_only_when_asked_for(api):
    reply = api.chat("echo one two", stream=True, stream_options={"include_usage": True})
    *others, last = chunks(reply.frames)
    assert all(c["usage"] is None for c in others)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 9


def test_a_text_stream_has_no_role(api):
    body = {"prompt": "echo one two", "stream": True}
    frames = api.request("POST", "/v1/completions", body).frames
    assert {c["object"] for c in chunks(frames)} == {"text_completion"}
    assert said(frames) == "one two "
    assert finishes(frames)[-1] == "stop"


def test_a_job_that_fails_at_once_is_a_plain_error_even_as_a_stream(api):
    for stream in (False, True):
        reply = api.chat("fail context_length_exceeded", stream=stream)
        assert reply.status == 400
        assert reply.json["error"]["code"] == "context_length_exceeded"
        assert reply.json["error"]["param"] == "messages"


@pytest.mark.parametrize(
    ("code", "status"), [("engine_error", 500), ("timeout", 504), ("never heard of", 500)]
)
def test_a_failure_in_mid_answer_has_its_status(api, code, status):
    reply = api.chat(f"fail_late {code}")
    assert reply.status == status
    assert reply.json["error"]["code"] == code


def test_a_failure_in_mid_stream_is_an_error_frame_and_then_the_end(api):
    reply = api.chat("fail_late engine_error", stream=True)
    assert reply.status == 200
    (_, error), (_, end) = reply.frames[-2:]
    assert error["error"]["code"] == "engine_error"
    assert end == "[DONE]"
    assert said(reply.frames[:-2]) == "so far "


def test_a_request_id_is_kept_if_it_is_sane(api):
    assert api.get("/health", X_Request_ID="abc-123").headers["x-request-id"] == "abc-123"
    for bad in ("x" * 129, "caf\xe9", "a\tb"):
        assert api.get("/health", X_Request_ID=bad).headers["x-request-id"].startswith("req_")


def test_a_request_id_reaches_the_worker(api, fake_worker):
    body = {"messages": "echo hi"}
    reply = api.request("POST", CHAT, body, X_Request_ID="mine")
    assert fake_worker.specs[reply.headers["x-job-id"]].request_id == "mine"


def test_what_the_client_asks_of_the_sampler_reaches_the_worker(api, fake_worker):
    fields = {
        "max_tokens": 5,
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "top_k": -1,
        "stop": ["a", "b"],
        "seed": -3,
        "logit_bias": {"7": -100},
        "ignore_eos": True,
        "enable_thinking": False,
        "reasoning_effort": "low",
        "chat_template_kwargs": {"date_string": "1 Jan 2025", "enable_thinking": True},
    }
    spec = fake_worker.specs[api.chat("echo hi", **fields).headers["x-job-id"]]
    sampling = spec.sampling
    assert sampling.max_tokens == 9, "max_completion_tokens wins"
    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0.5, 0, -3)
    assert sampling.stop == ("a", "b")
    assert sampling.logit_bias == {7: -100.0}
    assert sampling.ignore_eos
    assert sampling.top_p is None, "the model's own default"
    assert spec.template_kwargs == {
        "date_string": "1 Jan 2025",
        "enable_thinking": False,
        "reasoning_effort": "low",
    }


def test_a_seed_is_drawn_for_those_who_send_none(api, fake_worker):
    jobs = [api.chat("echo hi").headers["x-job-id"] for _ in range(3)]
    assert len({fake_worker.specs[job].sampling.seed for job in jobs}) == 3


def test_a_text_completion_defaults_to_16_tokens(api, fake_worker):
    reply = api.request("POST", "/v1/completions", {"prompt": [5, 6]})
    spec = fake_worker.specs[reply.headers["x-job-id"]]
    assert spec.sampling.max_tokens == 16
    assert spec.prompts == [[5, 6]]


def test_a_stream_without_news_is_opened_after_a_while_and_pinged(api):
    with open_stream(api, "silent") as response:
        assert response.status == 200
        assert response.read1(1000) == b": waiting\n\n"
        assert response.read1(1000) == b": ping\n"


def test_a_closed_stream_frees_its_sequence_at_once(api, fake_worker, wait):
    with open_stream(api, "hang") as response:
        while b"nothing" not in response.read1(65536):
            pass
        closed_s = time.monotonic()
    wait(is_cancelled(fake_worker, response.headers["x-job-id"]), "the worker is told")
    assert time.monotonic() - closed_s < 1


def test_a_client_that_leaves_a_whole_answer_frees_its_sequence(api, fake_worker, wait):
    connection = api.connect()
    connection.request("POST", CHAT, json.dumps({"messages": "hang on and on"}))
    wait(lambda: last_job(fake_worker, "hang on and on"), "the job runs")
    connection.close()
    job_id = last_job(fake_worker, "hang on and on")
    wait(is_cancelled(fake_worker, job_id), "the worker is told")


def test_a_client_that_leaves_while_its_job_waits_takes_it_out_of_the_queue(
    api, api_redis, fake_worker, wait
):
    queue = redis.Redis.from_url(api_redis.url)

    def queued():
        return set(typing.cast("list[bytes]", queue.zrange("q:tiny/demo", 0, -1)))

    before = queued()
    fake_worker.is_paused = True
    try:
        connection = api.connect()
        connection.request("POST", CHAT, json.dumps({"messages": "echo hi"}))
        wait(lambda: queued() - before, "the job waits")
        connection.close()
        wait(lambda: not queued() - before, "the job is gone")
    finally:
        fake_worker.is_paused = False
        queue.close()


def last_job(worker, prompt):
    for job_id, spec in reversed(worker.specs.items()):
        if spec.messages and spec.messages[-1]["content"] == prompt:
            return job_id
    return None


def test_a_slow_reader_gets_everything_once_and_costs_no_memory(api, frames):
    before = api.worker.memory_info().rss
    body = {"messages": "big 20000", "stream": True}
    payload = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        connection.connect(("127.0.0.1", api.port))
        connection.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        time.sleep(2)
        assert api.worker.memory_info().rss - before < 16 << 20
        received = bytearray()
        while piece := connection.recv(1 << 20):
            received += piece
    numbers = [
        int(line[4:])
        for line in received.replace(b"\r\n", b"\n").split(b"\n")
        if line[:4] == b"id: "
    ]
    assert numbers == list(range(20002))


def test_two_hundred_streams_at_once_are_each_complete(api):
    async def one(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        payload = json.dumps({"messages": f"echo {number} a b c d e f", "stream": True}).encode()
        writer.write(
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Content-Length: {len(payload)}\r\n\r\n".encode()
        )
        writer.write(payload)
        received = await reader.read()
        writer.close()
        return received

    async def all_of_them():
        return await asyncio.gather(*map(one, range(200)))

    for number, received in enumerate(asyncio.run(all_of_them())):
        words = [
            json.loads(line[6:])["choices"][0]["delta"]["content"].strip()
            for line in received.split(b"\n")
            if line.startswith(b"data: {")
        ]
        assert words == ["", str(number), "a", "b", "c", "d", "e", "f"]

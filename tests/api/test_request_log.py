"""Requests and responses as JSON lines."""

import json

import pytest

from api.request_log import RequestLog


@pytest.fixture
def server(api_redis, fake_worker, directory, start_api, tmp_path, wait):
    server = start_api(api_redis.url, directory, request_logging_file=str(tmp_path / "log.jsonl"))
    wait(lambda: server.get("/ready").status == 200, "the worker is known")
    yield server
    if server.process.poll() is None:
        server.stop()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_request_and_response_is_a_line(server, tmp_path):
    server.chat("echo one two")
    server.chat("echo one two", stream=True)
    server.request("POST", "/v1/completions", b"{bad")
    server.get("/health")
    server.stop()
    logged = lines(tmp_path / "log.jsonl")
    assert [line["kind"] for line in logged] == ["request", "response"] * 3
    for request, response in zip(logged[::2], logged[1::2], strict=True):
        assert request["request_id"] == response["request_id"]
        assert response["duration_s"] > 0
    whole, streamed, bad = logged[1::2]
    assert logged[0]["body"]["messages"][0]["content"] == "echo one two"
    assert whole["body"]["choices"][0]["message"]["content"] == "one two "
    assert streamed["body"]["choices"] == whole["body"]["choices"]
    assert streamed["job_id"].startswith("chatcmpl-")
    assert (logged[4]["body"], bad["status"]) == ("{bad", 400)
    assert bad["body"]["error"]["code"] == "invalid_json"


def test_a_line_never_waits_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("api.request_log.MAX_WAITING", 3)
    monkeypatch.setattr("threading.Thread.start", lambda self: None)
    log = RequestLog(tmp_path / "log.jsonl")
    for _ in range(10):
        log.put("request", "r", "/v1/x", body=b"{}")
    assert log.num_dropped == 7
    log._file.close()

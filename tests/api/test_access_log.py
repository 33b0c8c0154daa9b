"""One line a request, with numbers and names, and nothing of what was said."""

import json

import pytest

from api.access_log import Access, AccessLog, text_line
from api.exchange import Exchange


@pytest.fixture
def start(api_redis, fake_worker, directory, start_api, wait):
    servers = []

    def start(**settings):
        server = start_api(api_redis.url, directory, log="off", **settings)
        servers.append(server)
        wait(lambda: server.get("/ready").status == 200, "the worker is known")
        return server

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.kill()


def lines_of(server):
    server.stop()
    return [line for line in server.log.read_text().splitlines() if "/v1/" in line]


def test_whole_answers_streams_and_refusals_are_a_line_of_json_each(start):
    server = start(access_log="json")
    whole = server.chat("echo secret words")
    server.request("POST", "/v1/chat/completions", b"{bad", x_request_id="mine")
    streamed = server.chat("echo secret words", stream=True)
    assert (whole.status, streamed.status) == (200, 200)
    lines = lines_of(server)
    assert "secret" not in "".join(lines)
    whole_line, bad, streamed_line = map(json.loads, lines)
    for line, reply in ((whole_line, whole), (streamed_line, streamed)):
        assert line["job_id"] == reply.headers["x-job-id"]
        assert line["request_id"] == reply.headers["x-request-id"]
        assert (line["method"], line["path"]) == ("POST", "/v1/chat/completions")
        assert line["duration_s"] > 0
    usage = whole.json["usage"]
    for line in (whole_line, streamed_line):
        assert line["prompt_tokens"] == usage["prompt_tokens"]
        assert line["completion_tokens"] == usage["completion_tokens"] > 0
    assert (bad["status"], bad["request_id"]) == (400, "mine")
    assert "completion_tokens" not in bad


def test_text_names_the_tenant(start):
    server = start(access_log="text", api_keys="a-key-of-somebody")
    server.get("/v1/models", authorization="Bearer a-key-of-somebody")
    server.get("/v1/models")
    known, stranger = lines_of(server)
    assert " GET /v1/models 200 " in known
    assert known.endswith(" tenant=default")
    assert " GET /v1/models 401 " in stranger
    assert "tenant" not in stranger


def test_by_default_there_is_none(start):
    server = start()
    server.chat("echo one")
    assert lines_of(server) == []


def test_a_path_cannot_make_a_second_line():
    exchange = Exchange({"method": "GET", "path": "/v1/a b\n2026 GET /x 200"})
    line = text_line(Access.of(exchange))
    assert line.count(b"\n") == 1
    assert b" /v1/a%20b\\n2026%20GET%20/x%20200 0 " in line


def test_a_line_never_waits_for_a_slow_reader(monkeypatch, capfd):
    monkeypatch.setattr("api.line_log.MAX_WAITING", 3)
    monkeypatch.setattr("threading.Thread.start", lambda self: None)
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1, raising=False)
    log = AccessLog("json")
    for _ in range(5):
        log.note(Exchange({"method": "GET", "path": "/"}))
    assert log.num_dropped == 2
    log._file.close()

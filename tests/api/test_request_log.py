"""Requests and responses as JSON lines."""

import errno
import json
import time

import msgspec
import pytest

from api.request_log import Line, RequestLog


@pytest.fixture
def server(api_redis, fake_worker, directory, start_api, tmp_path, wait):
    server = start_api(api_redis.url, directory, request_logging_file=str(tmp_path / "log.jsonl"))
    wait(lambda: server.get("/ready").status == 200, "the worker is known")
    yield server
    if server.process.poll() is None:
        server.kill()


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
    monkeypatch.setattr("api.line_log.MAX_WAITING", 3)
    monkeypatch.setattr("threading.Thread.start", lambda self: None)
    log = RequestLog(tmp_path / "log.jsonl")
    for _ in range(10):
        log.put("request", "r", "/v1/x", body=b"{}")
    assert log.num_dropped == 7
    log._file.close()


def test_a_full_disk_is_told_once_and_later_lines_are_whole(tmp_path, caplog, monkeypatch):
    log = RequestLog(tmp_path / "log.jsonl")
    log.close()
    file = (tmp_path / "log.jsonl").open("wb", buffering=0)
    monkeypatch.setattr(log, "_file", _FullDisk(file))
    for number in range(6):
        log.put("request", str(number), "/v1/x", body=b"{}")
    log._lines.put(None)
    log._write()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    cut, *whole = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(cut) == 10
    assert [json.loads(line)["request_id"] for line in whole] == ["4", "5"]


class _FullDisk:
    """Takes 10 bytes, then nothing for the rest of four lines, then everything."""

    def __init__(self, file):
        self._file, self._num_writes, self.close = file, 0, file.close

    def write(self, data):
        self._num_writes += 1
        if self._num_writes == 1:
            return self._file.write(data[:10])
        if self._num_writes <= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._file.write(data)


def test_redacted_lines_have_numbers_and_no_text(
    api_redis, fake_worker, directory, start_api, tmp_path, wait
):
    settings = {"request_logging_file": str(tmp_path / "log"), "request_logging_redact": True}
    server = start_api(api_redis.url, directory, **settings)
    try:
        wait(lambda: server.get("/ready").status == 200, "the worker is known")
        server.chat("echo secret", stream=True)
        server.request("POST", "/v1/completions", b"{secret")
        server.stop()
    finally:
        if server.process.poll() is None:
            server.kill()
    logged = lines(tmp_path / "log")
    assert "secret" not in (tmp_path / "log").read_text()
    assert logged[0]["body"]["messages"] == [{"role": "user", "content": "[11 characters]"}]
    assert logged[1]["body"]["usage"]["completion_tokens"] > 0
    assert logged[3]["body"]["error"]["code"] == "invalid_json"


def numbers(path):
    return [int(line["request_id"]) for line in lines(path)]


def test_a_full_file_is_set_aside_and_the_oldest_goes(tmp_path):
    path = tmp_path / "log"
    size = len(_encoded(0))
    log = RequestLog(path, max_bytes=3 * size, num_kept=2)
    for number in range(10):
        log.put("request", str(number), "/v1/x", body=b"{}")
    log.close()
    assert numbers(path) == [9]
    assert numbers(tmp_path / "log.1") == [6, 7, 8]
    assert numbers(tmp_path / "log.2") == [3, 4, 5]
    assert not (tmp_path / "log.3").exists()


def _encoded(number):
    line = Line(time=time.time(), kind="request", request_id=str(number), path="/v1/x", body={})
    return msgspec.json.encode(line) + b"\n     "  # a time may be a few digits longer


def test_processes_share_a_file_and_its_turns(tmp_path):
    path = tmp_path / "log"
    logs = [RequestLog(path, max_bytes=5000, num_kept=100) for _ in range(3)]
    for number in range(300):
        logs[number % 3].put("request", str(number), "/v1/x", body=b"{}")
    for log in logs:
        log.close()
    files = [file for file in tmp_path.iterdir() if file.name != "log.lock"]
    assert len(files) > 3
    assert sorted(n for file in files for n in numbers(file)) == list(range(300))
    assert all(file.stat().st_size <= 5000 + 3 * 150 for file in files)


def test_a_file_that_logrotate_moved_is_left_to_it(tmp_path):
    path = tmp_path / "log"
    log = RequestLog(path)
    log.put("request", "1", "/v1/x", body=b"{}")
    while not path.stat().st_size:
        time.sleep(0.001)
    path.rename(tmp_path / "moved")
    log.put("request", "2", "/v1/x", body=b"{}")
    log.close()
    assert (numbers(tmp_path / "moved"), numbers(path)) == ([1], [2])

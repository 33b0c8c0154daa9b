"""The private Redis: one owner a directory, dies with its parent, keeps its data in a crash."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from deploy.errors import StartError
from deploy.redis_binary import Server, choose, identify, read_writer, record_writer
from deploy.redis_server import EmbeddedRedis

OWNER = """
import sys, time
from pathlib import Path
from deploy.redis_server import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "data")
    server.start()
    yield server
    server.stop()


def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def kill_server(server: EmbeddedRedis) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    while server.pid is not None:
        time.sleep(0.005)


def test_it_is_private_durable_and_never_evicts(server: EmbeddedRedis, tmp_path: Path) -> None:
    with client(server) as connection:
        config = connection.config_get("*")
    expected = {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "maxmemory": str(512 << 20),
        "save": "",
    }
    assert {key: config[key] for key in expected} == expected
    assert "pubsub 67108864 16777216 30" in config["client-output-buffer-limit"]
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "redis.sock").stat().st_mode & 0o777 == 0o700


def test_stop_leaves_neither_process_nor_lock(tmp_path: Path, is_gone) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    pid = server.pid
    server.stop()
    assert pid is not None
    assert is_gone(pid)
    server.start()
    server.stop()


def test_a_second_owner_is_refused_at_once_with_a_sentence(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(StartError, match=rf"in use by process {os.getpid()}: stop that one"):
        EmbeddedRedis(tmp_path / "data").start()
    assert time.monotonic() - began < 1
    with client(server) as connection:
        assert connection.ping()


def test_data_survives_a_killed_server(server: EmbeddedRedis) -> None:
    with client(server) as connection:
        connection.rpush("log:a", *range(1000))
    kill_server(server)
    server.restart()
    server.wait_until_ready()
    with client(server) as connection:
        assert connection.llen("log:a") == 1000


def test_data_survives_a_clean_stop(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    with client(server) as connection:
        connection.set("key", "value")
    server.stop()
    server.start()
    with client(server) as connection:
        assert connection.get("key") == "value"
    server.stop()


def test_a_truncated_tail_is_cut_off_and_the_rest_is_kept(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    with client(server) as connection:
        connection.rpush("log:a", *range(10))
        connection.rpush("log:a", "x" * 1000)
    (incremental,) = (tmp_path / "data" / "appendonlydir").glob("*.incr.aof")
    deadline = time.monotonic() + 10
    while incremental.stat().st_size < 1000:  # the server puts a write off while it syncs
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_server(server)
    os.truncate(incremental, incremental.stat().st_size - 200)
    server.restart()
    server.wait_until_ready()
    with client(server) as connection:
        assert connection.lrange("log:a", 0, -1) == [str(n) for n in range(10)]


def test_a_damaged_file_stops_the_start_and_names_the_log(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    with client(server) as connection:
        connection.set("key", "value")
    server.stop()
    (incremental,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    incremental.write_bytes(b"*3\r\n$3\r\nSETgarbage" * 20)
    with pytest.raises(StartError, match=r"stopped at its start: .*redis\.log"):
        server.start()


def test_a_stale_socket_does_not_hinder_the_start(tmp_path: Path) -> None:
    (tmp_path / "redis.sock").write_text("left behind")
    server = EmbeddedRedis(tmp_path)
    server.start()
    with client(server) as connection:
        assert connection.ping()
    server.stop()


def test_a_path_too_long_for_a_socket_gets_one_elsewhere(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 25) / "with space"
    server = EmbeddedRedis(directory)
    server.start()
    elsewhere = Path(server.url.removeprefix("unix://").removesuffix("?db=0")).parent
    with client(server) as connection:
        assert connection.ping()
    assert elsewhere != directory
    assert elsewhere.stat().st_mode & 0o777 == 0o700
    server.stop()
    assert not elsewhere.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_it_dies_with_a_killed_parent_and_the_next_owner_takes_over(
    tmp_path: Path, is_gone
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    successor = EmbeddedRedis(tmp_path)
    successor.start()  # waits for the old server, which holds the lock as well
    assert is_gone(pid)
    successor.stop()


def test_loading_is_waited_for_beyond_the_timeout(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path)
    server.start()
    with client(server) as connection:
        connection.config_set("maxmemory", "0")
        for key in range(20):
            connection.eval(
                "for i = 1, 10000 do redis.call('RPUSH', KEYS[1], i) end", 1, f"log:{key}"
            )
    server.stop()
    server.start(timeout_s=0.1)
    with client(server) as connection:
        assert connection.dbsize() == 20
    server.stop()


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="cannot use the data directory"):
        EmbeddedRedis(tmp_path / "file" / "data").start()


class TestWhoseDataItIs:
    @pytest.mark.parametrize(
        ("reader", "writer", "can_read"),
        [
            (("Redis", (7, 0, 15)), ("Redis", (7, 0, 15)), True),
            (("Redis", (7, 0, 1)), ("Redis", (7, 0, 15)), True),
            (("Redis", (7, 2, 0)), ("Redis", (7, 0, 15)), True),
            (("Redis", (7, 0, 15)), ("Redis", (7, 4, 0)), False),
            (("Redis", (7, 0, 15)), ("Valkey", (9, 1, 2)), False),
            (("Redis", (8, 0, 0)), ("Valkey", (9, 1, 2)), False),
            (("Valkey", (9, 1, 2)), ("Redis", (7, 0, 15)), True),
            (("Valkey", (9, 1, 2)), ("Redis", (7, 4, 0)), False),
            (("Valkey", (8, 0, 0)), ("Valkey", (9, 1, 2)), False),
        ],
    )
    def test_files_are_read_forwards_only(self, reader, writer, can_read) -> None:
        assert Server(*reader).can_read(Server(*writer)) is can_read

    def test_the_directory_remembers_its_server(
        self, server: EmbeddedRedis, tmp_path: Path
    ) -> None:
        writer = read_writer(tmp_path / "data" / "server.json")
        assert writer is not None
        assert identify(writer.path) == writer

    def test_an_older_server_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        record_writer(tmp_path / "server.json", Server("Valkey", (99, 0, 0)))
        with pytest.raises(StartError, match=r"written by Valkey 99\.0\.0.*set REDIS_SERVER_BIN"):
            EmbeddedRedis(tmp_path).start()

    def test_the_first_server_that_fits_the_data_is_chosen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = fake_server(tmp_path, "redis-server", "Redis server v=7.0.15 sha=0")
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        assert choose("", None).path == old
        assert choose("", Server("Valkey", (9, 0, 0))).maker == "Valkey"
        with pytest.raises(StartError, match=r"which Redis 7\.0\.15 cannot read"):
            choose(old, Server("Valkey", (9, 0, 0)))

    def test_a_program_that_is_no_server_is_refused(self, tmp_path: Path) -> None:
        path = fake_server(tmp_path, "redis-server", "hello")
        with pytest.raises(StartError, match="is not a Redis server"):
            choose(path, None)

    def test_a_server_that_is_too_old_is_refused(self, tmp_path: Path) -> None:
        path = fake_server(tmp_path, "redis-server", "Redis server v=5.0.14 sha=0")
        with pytest.raises(StartError, match=r"needs Redis 6\.2 or newer"):
            choose(path, None)

    def test_a_missing_program_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StartError, match="not a Redis server that runs here"):
            choose(str(tmp_path / "nothing"), None)


def fake_server(directory: Path, name: str, version: str) -> str:
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return str(path)

"""The line to Redis: URLs, and what the README says of arq's pitfalls."""

import re
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from tests.workers.wire import QUEUE
from workers.environment import SettingError
from workers.redis_link import TRANSIENT, Scripts, close, connect

README = Path(__file__).parents[2] / "workers" / "README.md"


async def test_a_url_keeps_its_password_and_tls_options():
    url = "rediss://me:p%40ss%2Fword@redis.example:6380/3?ssl_cert_reqs=none"
    client = connect(url, QUEUE)
    options = client.connection_pool.connection_kwargs
    assert options["password"] == "p@ss/word"
    assert (options["username"], options["host"], options["port"]) == ("me", "redis.example", 6380)
    assert (options["db"], options["ssl_cert_reqs"]) == (3, "none")
    assert "SSL" in client.connection_pool.connection_class.__name__
    client.connection_pool.make_connection()
    await close(client)


async def test_a_unix_socket_is_a_url_too(redis_url):
    client = connect(redis_url, QUEUE)
    assert await client.ping()
    await close(client)


@pytest.mark.parametrize("url", ["http://x", "redis://host:port", "nonsense"])
def test_what_is_no_redis_url_is_refused_without_showing_it(url):
    with pytest.raises(SettingError, match="REDIS_URL") as refusal:
        connect(url, QUEUE)
    assert url not in str(refusal.value)


def test_every_pitfall_has_a_row_and_every_test_in_it_exists():
    rows = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", README.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 20))
    source = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for _, tests in rows:
        for name in re.findall(r"test_\w+", tests):
            assert f"def {name}(" in source, name


async def test_an_outage_is_logged_once_and_so_is_its_end(redis_server, caplog):
    client = connect(redis_server.url, QUEUE)
    scripts = Scripts(client)
    redis_server.stop()
    for _ in range(2):
        with pytest.raises(TRANSIENT):
            await scripts.run("claim", [QUEUE], ["w", 1, 1000, 1])
    redis_server.start()
    assert await scripts.insist("claim", [QUEUE], ["w", 1, 1000, 1]) == []
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "Redis is away",
        f"Redis is back after {caplog.records[-1].args[0]:.1f} s",
    ]
    await close(client)


@pytest.mark.parametrize("code", ["MISCONF", "NOREPLICAS"])
async def test_a_redis_that_cannot_write_is_waited_for(link, monkeypatch, code):
    async def refuse(keys, args):
        raise ResponseError(f"{code} Errors writing to the AOF file")

    monkeypatch.setitem(link._scripts, "claim", refuse)
    with pytest.raises(TRANSIENT):
        await link.run("claim")

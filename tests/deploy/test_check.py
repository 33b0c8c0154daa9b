"""The release check: settings and Redis, with a status that a platform understands."""

import pytest
import redis

from deploy import cli


def test_a_fit_redis_passes(redis_url: str, capsys) -> None:
    assert cli.main(["check", "--redis-url", redis_url]) == 0
    assert "settings: ok\nRedis: valkey" in capsys.readouterr().out


def test_an_evicting_redis_is_refused(redis_url: str, capsys) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        status = cli.main(["check", "--redis-url", redis_url])
        client.config_set("maxmemory-policy", "noeviction")
    assert status == 2
    assert "evicts keys when it is full (maxmemory-policy allkeys-lru)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "REDIS_URL is not set"),
        ("redis://:secret@127.0.0.1:1/0", "Redis at redis://127.0.0.1:1/0 cannot be reached"),
        ("http://127.0.0.1", "REDIS_URL is not a Redis address"),
        ("redis://127.0.0.1:port/0", "REDIS_URL is not a Redis address"),
        ("unix:///nowhere/redis.sock", "cannot be reached"),
    ],
)
def test_a_redis_that_is_not_there_is_one_sentence(url, sentence, monkeypatch, capsys) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    assert cli.main(["check"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "secret" not in error
    assert len(error.splitlines()) == 1


def test_a_misspelt_token_source_is_refused_without_showing_it(redis_url: str, capsys) -> None:
    assert cli.main(["check", "--redis-url", redis_url, "--token-source", "hf_secret"]) == 2
    error = capsys.readouterr().err
    assert "The token source must be literal:TOKEN, env:VARIABLE" in error
    assert "hf_secret" not in error

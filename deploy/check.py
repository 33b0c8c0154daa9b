"""`tramontane check`: are the settings good and is Redis fit for a queue? Run before a release."""

import argparse
import contextlib
from collections.abc import Mapping
from typing import Any

import redis

from api.config import ApiConfig
from deploy import roles, settings
from deploy.errors import StartError
from engine.capacity import check_sizes
from engine.errors import LoadError
from engine.weights.hub_token import check_source
from engine.weights.isq_settings import check_isq
from workers.config import WorkerConfig, engine_config
from workers.environment import load
from workers.redis_policy import place_of, trouble

SUMMARY = "check the settings and Redis (for a release step)"
CONFIGS = tuple(settings.READERS.values())
_TIMEOUT_S = 5


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`check` has the settings' flags alone."""


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The settings were checked on the way here; this looks at the API keys, webhooks, traces, the
    kind of token source, the files of in-situ quantisation, and Redis.

    Raises StartError.
    """
    roles.check_api(load(ApiConfig, environ), environ)
    _check_worker(load(WorkerConfig, environ))
    url = environ.get("REDIS_URL", "")
    if not url:
        raise StartError("REDIS_URL is not set: web and worker need one Redis to meet in")
    print(f"settings: ok\nRedis: {check_redis(url)}")
    return 0


def _check_worker(config: WorkerConfig) -> None:
    try:
        check_source(config.token_source)
        check_sizes(engine_config(config))
        check_isq(engine_config(config))
    except LoadError as error:
        raise StartError(str(error)) from error


def check_redis(url: str) -> str:
    """One line on the server at `url`. Raises StartError if it cannot carry a queue."""
    place = place_of(url)
    try:
        with contextlib.closing(
            redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        ) as client:
            info: Mapping[str, Any] = client.info()  # type: ignore[assignment]
    except ValueError as error:
        raise StartError(f"REDIS_URL is not a Redis address: {error}") from error
    except (redis.RedisError, OSError) as error:
        raise StartError(f"Redis at {place} cannot be reached: {error}") from error
    policy = info.get("maxmemory_policy", "noeviction")
    if text := trouble(policy, url):
        raise StartError(text)
    version = info.get("valkey_version") or info.get("redis_version")
    return f"{info.get('server_name', 'redis')} {version} at {place}, {policy}"

"""Refuses a Redis that drops keys when it is full: jobs would vanish. API, worker, command line."""

import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
from redis.exceptions import ResponseError

from workers.environment import SettingError

logger = logging.getLogger(__name__)

SAFE = "noeviction"


async def check_policy(client: redis.asyncio.Redis, url: str) -> None:
    """Ask the server at `url` once. Raises SettingError if it evicts, and what the client raises.

    A server that does not tell its policy is let in with a warning.
    """
    policy = await _by_info(client) or await _by_config(client)
    if policy is None:
        logger.warning(
            "Redis at %s does not tell its maxmemory-policy; it must be %s", place_of(url), SAFE
        )
    else:
        refuse_eviction(policy, url)


def refuse_eviction(policy: str, url: str) -> None:
    """Raise SettingError unless `policy`, a maxmemory-policy, keeps every key."""
    if text := trouble(policy, url):
        raise SettingError(text)


def trouble(policy: str, url: str) -> str:
    """What is wrong with a server at `url` that has this policy; empty if nothing is."""
    if policy == SAFE:
        return ""
    return (
        f"Redis at {place_of(url)} evicts keys when it is full (maxmemory-policy {policy}), "
        f"which would lose jobs: set it to {SAFE}"
    )


def place_of(url: str) -> str:
    """The address without its password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


async def _by_info(client: redis.asyncio.Redis) -> str | None:
    try:
        info: Mapping[str, Any] = await client.info("memory")
    except ResponseError:  # a managed server may forbid it
        return None
    policy = info.get("maxmemory_policy")
    return None if policy is None else str(policy)


async def _by_config(client: redis.asyncio.Redis) -> str | None:
    try:
        reply: Mapping[Any, Any] = await client.config_get("maxmemory-policy")
    except ResponseError:
        return None
    values = [v.decode() if isinstance(v, bytes) else str(v) for v in reply.values()]
    return values[0] if values else None

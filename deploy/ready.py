"""Tells when a server answers and what it serves: the ready line. Starts and stops nothing."""

import contextlib
import http.client

import redis

from workers.contract import MODELS_KEY, ModelCard, decode_card

_TIMEOUT_S = 2.0


def local_address(host: str) -> str:
    """Where to reach, from this machine, a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)


def base_url(host: str, port: int) -> str:
    """The server's URL from this machine."""
    address = local_address(host)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def is_ready(host: str, port: int) -> bool:
    """True once GET /ready answers 200: a worker has the model loaded."""
    connection = http.client.HTTPConnection(local_address(host), port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def find_card(redis_url: str, name: str, since_s: int) -> ModelCard | None:
    """The card of model `name` if a worker wrote it at `since_s` (Unix time) or later."""
    try:
        with contextlib.closing(
            redis.Redis.from_url(redis_url, socket_timeout=_TIMEOUT_S)
        ) as client:
            data = client.hget(MODELS_KEY, name)
    except (redis.RedisError, OSError):
        return None
    card = decode_card(data) if isinstance(data, bytes) else None
    return card if card and card.created_s >= since_s else None


def ready_line(card: ModelCard, url: str) -> str:
    """One line that says what is served and where."""
    num_tokens = f"{card.kv_tokens:,} tokens"
    # A model of vectors keeps no keys and values: these are the tokens of a step.
    room = f"KV cache {num_tokens}" if card.task == "generate" else f"steps of up to {num_tokens}"
    return (
        f"ready: {card.name} · context {card.context_length:,} tokens · {room} · "
        f"{card.device} {card.dtype} · {url}"
    )

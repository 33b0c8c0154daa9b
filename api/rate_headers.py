"""What a client is told of its limits, in OpenAI's `x-ratelimit-…` headers. Keeps no bucket."""

import math

from api.auth import Tenant

_MINUTE_S = 60
_HOUR_S = 3600


def rate_headers(
    tenant: Tenant, remaining_requests: float, remaining_tokens: float
) -> dict[str, str]:
    """The headers for a tenant whose buckets hold this much now; a limit of 0 has no headers.

    A bucket holds one minute's worth, fills steadily, and may be below 0, where a job took more
    than was thought.
    """
    return {
        **_bucket("requests", tenant.requests_per_min, remaining_requests),
        **_bucket("tokens", tenant.tokens_per_min, remaining_tokens),
    }


def _bucket(name: str, per_min: int, remaining: float) -> dict[str, str]:
    if not per_min:
        return {}
    remaining = min(remaining, per_min)
    return {
        f"x-ratelimit-limit-{name}": str(per_min),
        f"x-ratelimit-remaining-{name}": str(max(0, math.floor(remaining))),
        f"x-ratelimit-reset-{name}": duration((per_min - remaining) * _MINUTE_S / per_min),
    }


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them: `250ms`, `1s`, `6m0s`, `1h0m5s`; rounded up."""
    milliseconds = math.ceil(round(seconds * 1000, 3))  # 0.1 * 10 must not become 1001 ms
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    total_s = math.ceil(milliseconds / 1000)
    hours, rest_s = divmod(total_s, _HOUR_S)
    minutes, rest_s = divmod(rest_s, _MINUTE_S)
    if hours:
        return f"{hours}h{minutes}m{rest_s}s"
    return f"{minutes}m{rest_s}s" if minutes else f"{rest_s}s"

"""Do the calls of a conversation have results, and the results calls? Pure; knows job messages."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Unmatched(NamedTuple):
    """Ids of calls, in their order: of those without a result, and of results without a call."""

    calls: list[str]
    results: list[str]


def unmatched(messages: Iterable[Mapping[str, Any]]) -> Unmatched:
    """What has no counterpart; each call has one result, which comes after it."""
    waiting: dict[str, None] = {}
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            call_id = message["tool_call_id"]
            if call_id in waiting:
                del waiting[call_id]
            else:
                results.append(call_id)
        waiting |= {call["id"]: None for call in message.get("tool_calls", ())}
    return Unmatched(list(waiting), results)

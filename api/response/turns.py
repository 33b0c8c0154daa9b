"""Items as the messages that a chat template sees, and back. Pure; knows no job.

What the assistant thought, said and called in one turn are several items and one message.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from api.response.item import Cut, Item

T = TypeVar("T", Item, Cut)


def messages_of(items: Iterable[Item]) -> list[dict[str, Any]]:
    """The messages of a job."""
    return [_message(group) for group in _grouped(items)]


def items_in(messages: Sequence[Mapping[str, Any]], cuts: Iterable[Cut]) -> list[Item]:
    """The items that the messages were made of."""
    groups = zip(_grouped(cuts), messages, strict=True)
    return [item for group, message in groups for item in _items(group, message)]


def _grouped(items: Iterable[T]) -> list[list[T]]:
    groups: list[list[T]] = []
    for item in items:
        if groups and _continues(item, groups[-1][-1]):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _continues(item: Item | Cut, last: Item | Cut) -> bool:
    """True for a call behind anything of the assistant's, and for words behind thoughts."""
    if item.kind == "function_call":
        return last.role == "assistant"
    return item.kind == "message" and item.role == "assistant" and last.kind == "reasoning"


def _message(group: Sequence[Item]) -> dict[str, Any]:
    first = group[0]
    if first.kind == "function_call_output":
        return {"role": "tool", "tool_call_id": first.call_id, "content": first.text}
    if first.role != "assistant":
        return {
            "role": "system" if first.role == "developer" else first.role,
            "content": first.text,
        }
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for item in group:
        if item.kind == "reasoning":
            message["reasoning_content"] = item.text
        elif item.kind == "function_call":
            message.setdefault("tool_calls", []).append(_tool_call(item))
        else:
            message["content"] = item.text
    return message


def _tool_call(item: Item) -> dict[str, Any]:
    function = {"name": item.name, "arguments": item.text}
    return {"id": item.call_id, "type": "function", "function": function}


def _items(group: Iterable[Cut], message: Mapping[str, Any]) -> Iterator[Item]:
    calls = iter(message.get("tool_calls", ()))
    for cut in group:
        if cut.kind == "function_call":
            yield _call(cut, next(calls))
            continue
        text = message["reasoning_content" if cut.kind == "reasoning" else "content"]
        call_id = message["tool_call_id"] if cut.kind == "function_call_output" else ""
        yield Item(cut.id, cut.role, cut.parts(text), cut.status, cut.kind, call_id)


def _call(cut: Cut, call: Mapping[str, Any]) -> Item:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    return Item(cut.id, cut.role, (arguments,), cut.status, cut.kind, call["id"], name)

"""Tools and their calls as chat templates expect them in a conversation. Knows messages only."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.text.chat_template import ChatTemplate

_TELL_TOOLS = """You can call these functions:

{tools}

To call one, answer with nothing but a JSON object of this form:
{{"name": "the function's name", "arguments": {{}}}}
Otherwise answer in words."""


def with_tools(
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    template: ChatTemplate,
) -> list[Mapping[str, Any]]:
    """The messages with arguments of earlier calls as objects, and results with their tools' names.

    If the template cannot show tools, a system message tells of them.
    """
    names: dict[str, str] = {}
    fitted = [_fit(message, names) for message in messages]
    if tools and not template.shows_tools:
        return _told(fitted, tools)
    return fitted


def _fit(message: Mapping[str, Any], names: dict[str, str]) -> Mapping[str, Any]:
    if calls := message.get("tool_calls"):
        names.update({call["id"]: call["function"]["name"] for call in calls})
        return {**message, "tool_calls": [_with_object(call) for call in calls]}
    name = names.get(message.get("tool_call_id", ""))
    return message if name is None or "name" in message else {**message, "name": name}


def _with_object(call: Mapping[str, Any]) -> dict[str, Any]:
    """Templates turn the arguments to JSON themselves; what is no object stays text."""
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        arguments = function["arguments"]
    return {**call, "function": {**function, "arguments": arguments}}


def _told(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    text = _TELL_TOOLS.format(tools="\n".join(json.dumps(tool["function"]) for tool in tools))
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]

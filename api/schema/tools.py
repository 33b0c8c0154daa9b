"""The tools of a request: which there are, and what the model may or must do with them."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from api.errors import ApiError

MAX_TOOLS = 128
_CHOICE = "tool_choice"
# OpenAI's bounds on a function's name.
_Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]


class FunctionSpec(msgspec.Struct, omit_defaults=True):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: _Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A tool; functions are the only ones that a server of models can offer."""

    type: Literal["function"]
    function: FunctionSpec

    def wire(self) -> dict[str, Any]:
        """As a chat template sees it."""
        function: dict[str, Any] = msgspec.to_builtins(self.function)
        function.pop("strict", None)
        function.setdefault("parameters", {"type": "object", "properties": {}})
        return {"type": "function", "function": function}


Tools = Annotated[list[Tool], Meta(max_length=MAX_TOOLS)]


class FunctionName(msgspec.Struct):
    """A function by its name."""

    name: str


class ToolName(msgspec.Struct):
    """A tool of a list of allowed ones, in either spelling."""

    type: Literal["function"]
    function: FunctionName | None = None
    name: str | None = None


class AllowedTools(msgspec.Struct):
    """Those that may be called this time."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ToolName], Meta(min_length=1, max_length=MAX_TOOLS)]


class ChosenTool(msgspec.Struct):
    """The tool that must be called (both spellings), or those that may be."""

    type: Literal["function", "allowed_tools"]
    function: FunctionName | None = None
    name: str | None = None
    allowed_tools: AllowedTools | None = None


ToolChoice = Literal["none", "auto", "required"] | ChosenTool


class Wanted(NamedTuple):
    """What `tool_choice` comes to: the tools that the model is shown, and whether it must call."""

    tools: list[dict[str, Any]]
    must_call: bool
    is_one: bool  # exactly one call
    strict: tuple[str, ...] = ()  # the names of those that are


def wanted_tools(tools: list[Tool] | None, choice: ToolChoice | None) -> Wanted:
    """What the model is shown and has to do. Raises ApiError."""
    known = _by_name(tools or [])
    if choice == "none":
        return Wanted([], must_call=False, is_one=False)
    if isinstance(choice, ChosenTool):
        return _chosen(known, choice)
    must_call = choice == "required"
    if must_call and not known:
        raise ApiError("invalid_value", "'tool_choice' needs 'tools'.", _CHOICE)
    return _shown(known.values(), must_call=must_call)


def _by_name(tools: list[Tool]) -> dict[str, Tool]:
    known: dict[str, Tool] = {}
    for i, tool in enumerate(tools):
        if tool.function.name in known:
            what = f"There are two tools called '{tool.function.name}'."
            raise ApiError("invalid_value", what, f"tools[{i}].function.name")
        known[tool.function.name] = tool
    return known


def _chosen(known: Mapping[str, Tool], choice: ChosenTool) -> Wanted:
    if choice.type == "function":
        return _shown([_find(known, choice, _CHOICE)], must_call=True, is_one=True)
    allowed = choice.allowed_tools
    if allowed is None:
        raise _missing(f"{_CHOICE}.allowed_tools")
    where = f"{_CHOICE}.allowed_tools.tools"
    names = [_find(known, tool, f"{where}[{i}]") for i, tool in enumerate(allowed.tools)]
    unique = {tool.function.name: tool for tool in names}
    return _shown(unique.values(), must_call=allowed.mode == "required")


def _shown(tools: Iterable[Tool], *, must_call: bool, is_one: bool = False) -> Wanted:
    tools = list(tools)
    strict = tuple(tool.function.name for tool in tools if tool.function.strict)
    return Wanted([tool.wire() for tool in tools], must_call, is_one, strict)


def _find(known: Mapping[str, Tool], chosen: ChosenTool | ToolName, param: str) -> Tool:
    name = chosen.name if chosen.function is None else chosen.function.name
    if name is None:
        raise _missing(f"{param}.function")
    if name not in known:
        raise ApiError("invalid_value", f"There is no tool called '{name[:80]}'.", param)
    return known[name]


def _missing(param: str) -> ApiError:
    return ApiError("missing_required_parameter", f"Missing required parameter: '{param}'.", param)

"""The tools of a request: which there are, and what the model may or must do with them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from api.errors import ApiError
from api.schema.needed import needed
from workers.contract import Constraint

MAX_TOOLS = 128
_CHOICE = "tool_choice"
# OpenAI's bounds on a function's name.
ToolNameText = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]


class FunctionSpec(msgspec.Struct, omit_defaults=True):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: ToolNameText
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


class Named(msgspec.Struct, kw_only=True):
    """What names a tool, nested or flat."""

    function: FunctionName | None = None
    name: str | None = None

    @property
    def called(self) -> str | None:
        """Its name."""
        return self.name if self.function is None else self.function.name


class ToolName(Named, kw_only=True):
    """A tool of a list of allowed ones."""

    type: Literal["function"]


_ToolNames = Annotated[list[ToolName], Meta(min_length=1, max_length=MAX_TOOLS)]


class AllowedTools(msgspec.Struct):
    """Those that may be called this time."""

    mode: Literal["auto", "required"]
    tools: _ToolNames


class ChosenTool(Named, kw_only=True):
    """The tool that must be called, or those that may be, each nested or flat."""

    type: Literal["function", "allowed_tools"]
    allowed_tools: AllowedTools | None = None
    mode: Literal["auto", "required"] | None = None
    tools: _ToolNames | None = None

    @property
    def allowed(self) -> AllowedTools:
        """Those that may be called. Raises ApiError if nobody said."""
        if self.mode is None or self.tools is None:
            return needed(self.allowed_tools, f"{_CHOICE}.allowed_tools")
        return AllowedTools(self.mode, self.tools)

    def flat(self) -> dict[str, Any]:
        """As the Responses API writes it."""
        if self.type == "function":
            return {"type": "function", "name": self.called}
        tools = [{"type": "function", "name": tool.called} for tool in self.allowed.tools]
        return {"type": "allowed_tools", "mode": self.allowed.mode, "tools": tools}


ToolChoice = Literal["none", "auto", "required"] | ChosenTool


class Wanted(NamedTuple):
    """What `tool_choice` comes to: the tools that the model is shown, and whether it must call."""

    tools: list[dict[str, Any]]
    must_call: bool
    is_one: bool  # exactly one call
    strict: tuple[str, ...] = ()  # the names of those that are

    def check_beside(self, constraint: Constraint | None) -> None:
        """Raise ApiError if the answer can be nothing but calls and has to be something else."""
        if self.must_call and constraint is not None:
            what = f"A tool must be called, so '{constraint.param}' can say nothing."
            raise ApiError("invalid_value", what, constraint.param)


def wanted_tools(
    tools: Sequence[Tool] | None, choice: ToolChoice | None, *, name_at: str = "function.name"
) -> Wanted:
    """What the model is shown and has to do; `name_at` is where a tool has its name.

    Raises ApiError.
    """
    known = _by_name(tools or (), name_at)
    if choice == "none":
        return Wanted([], must_call=False, is_one=False)
    if isinstance(choice, ChosenTool):
        return _chosen(known, choice, name_at)
    must_call = choice == "required"
    if must_call and not known:
        raise ApiError("invalid_value", "'tool_choice' needs 'tools'.", _CHOICE)
    return _shown(known.values(), must_call=must_call)


def _by_name(tools: Sequence[Tool], name_at: str) -> dict[str, Tool]:
    known: dict[str, Tool] = {}
    for i, tool in enumerate(tools):
        if tool.function.name in known:
            what = f"There are two tools called '{tool.function.name}'."
            raise ApiError("invalid_value", what, f"tools[{i}].{name_at}")
        known[tool.function.name] = tool
    return known


def _chosen(known: Mapping[str, Tool], choice: ChosenTool, name_at: str) -> Wanted:
    if choice.type == "function":
        return _shown([_find(known, choice, _CHOICE, name_at)], must_call=True, is_one=True)
    allowed = choice.allowed
    where = f"{_CHOICE}.allowed_tools.tools" if choice.tools is None else f"{_CHOICE}.tools"
    names = [_find(known, tool, f"{where}[{i}]", name_at) for i, tool in enumerate(allowed.tools)]
    unique = {tool.function.name: tool for tool in names}
    return _shown(unique.values(), must_call=allowed.mode == "required")


def _shown(tools: Iterable[Tool], *, must_call: bool, is_one: bool = False) -> Wanted:
    tools = list(tools)
    strict = tuple(tool.function.name for tool in tools if tool.function.strict)
    return Wanted([tool.wire() for tool in tools], must_call, is_one, strict)


def _find(known: Mapping[str, Tool], chosen: Named, param: str, name_at: str) -> Tool:
    name = needed(chosen.called, f"{param}.{name_at}")
    if name not in known:
        raise ApiError("invalid_value", f"There is no tool called '{name[:80]}'.", param)
    return known[name]

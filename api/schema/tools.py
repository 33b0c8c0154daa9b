"""The tools of a request: which there are, and what the model may or must do with them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.errors import ApiError

MAX_TOOLS = 128
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
ToolChoice = Literal["none", "auto", "required"]


def wire_tools(tools: list[Tool] | None, choice: ToolChoice | None) -> list[dict[str, Any]]:
    """The tools that the model is shown: none if it may call none. Raises ApiError."""
    if choice == "required":
        what = "'tool_choice' 'required' is not supported by this server."
        raise ApiError("unsupported_parameter", what, "tool_choice")
    names: set[str] = set()
    for i, tool in enumerate(tools or ()):
        if tool.function.name in names:
            what = f"There are two tools called '{tool.function.name}'."
            raise ApiError("invalid_value", what, f"tools[{i}].function.name")
        names.add(tool.function.name)
    return [] if choice == "none" else [tool.wire() for tool in tools or ()]

"""Tools and formats of a Responses request, which has them flat where a chat nests them.

Knows no grammar.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.errors import ApiError
from api.schema.needed import needed
from api.schema.tools import (
    MAX_TOOLS,
    ChosenTool,
    FunctionSpec,
    Tool,
    ToolChoice,
    ToolNameText,
    Wanted,
    wanted_tools,
)
from workers.contract import Constraint

_FormatName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]


class FlatTool(msgspec.Struct, kw_only=True):
    """A function that the model may call; tools of other types run on servers of OpenAI's."""

    type: str
    name: ToolNameText | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def nested(self, param: str) -> Tool:
        """As a chat has it. Raises ApiError."""
        if self.type != "function":
            what = f"Tools of the type '{self.type[:40]}' are not supported by this server."
            raise ApiError("unsupported_parameter", what, f"{param}.type")
        name = needed(self.name, f"{param}.name")
        spec = FunctionSpec(name, self.description, self.parameters, self.strict)
        return Tool("function", spec)


FlatTools = Annotated[list[FlatTool], Meta(max_length=MAX_TOOLS)]


class TextFormat(msgspec.Struct):
    """What the text must be; a schema is followed to the letter, strict or not."""

    type: Literal["text", "json_object", "json_schema"]
    name: _FormatName | None = None
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None

    def constraint(self) -> Constraint | None:
        """None if the text is free. Raises ApiError."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return Constraint("json_object", param="text.format")
        needed(self.name, "text.format.name")
        schema = needed(self.schema, "text.format.schema")
        return Constraint("json_schema", schema, "text.format.schema")

    def echo(self) -> dict[str, Any]:
        """What the response says of it, without the schema."""
        said = {"name": self.name, "description": self.description, "strict": self.strict}
        if self.type != "json_schema":
            return {"type": self.type}
        return {"type": self.type} | {k: v for k, v in said.items() if v is not None}


def wanted_flat(tools: Sequence[FlatTool], choice: ToolChoice | None) -> Wanted:
    """What the model is shown and has to do. Raises ApiError."""
    nested = [tool.nested(f"tools[{i}]") for i, tool in enumerate(tools)]
    return wanted_tools(nested, choice, name_at="name")


def echo_tools(tools: Sequence[FlatTool]) -> tuple[dict[str, Any], ...]:
    """The tools as the response says them back."""
    return tuple(_echo_tool(tool) for tool in tools)


def _echo_tool(tool: FlatTool) -> dict[str, Any]:
    return {
        "type": tool.type,
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def echo_choice(choice: ToolChoice | None) -> str | dict[str, Any]:
    """The choice as the response says it back."""
    return choice.flat() if isinstance(choice, ChosenTool) else choice or "auto"

"""Request fields that we know and do not support yet.

Silence would change what the client gets, so they are refused.
"""

from typing import Any, ClassVar

import msgspec

from api.errors import ApiError

_NOTHING: tuple[Any, ...] = (None, False, 0, 0.0, "", [], {})

# Values of a field that ask for nothing we lack.
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "tool_choice": (None, "none", "auto"),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, [], ["text"]),
}


class RefusedFields(msgspec.Struct, kw_only=True):
    """Fields of OpenAI and of known extensions that `check_refused` looks at."""

    supported: ClassVar[frozenset[str]] = frozenset()  # those of a kind of request that has them

    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    prompt_logprobs: Any = None
    audio: Any = None
    modalities: Any = None
    web_search_options: Any = None
    grammar: Any = None
    json_schema: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_regex: Any = None
    guided_choice: Any = None
    guided_grammar: Any = None
    adapter: Any = None
    adapters: Any = None
    echo: Any = None
    suffix: Any = None
    use_beam_search: Any = None
    continue_final_message: Any = None

    def check_refused(self) -> None:
        """Raise ApiError `unsupported_parameter` for the first field that asks for what we lack."""
        for field in RefusedFields.__struct_fields__:
            value = None if field in self.supported else getattr(self, field)
            if value is not None and not _is_harmless(value, _HARMLESS.get(field, _NOTHING)):
                raise ApiError(
                    "unsupported_parameter", f"'{field}' is not supported by this server.", field
                )


def _is_harmless(value: Any, harmless: tuple[Any, ...]) -> bool:
    return any(type(value) is type(item) and value == item for item in harmless)

"""Bodies of /tokenize, /detokenize and /apply-template, in vLLM's and llama-server's names.

Knows no HTTP.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.errors import ApiError

_TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """POST /tokenize of a text: `prompt` (vLLM) or `content` (llama-server). A chat has `messages`.

    BOS and its like are added by default as those two do it: to a `prompt`, not to a `content`.
    """

    model: str = "default"
    prompt: str | None = None
    content: str | None = None
    messages: Any = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None
    parse_special: bool | None = None
    return_token_strs: bool | None = None
    with_pieces: bool | None = None

    @property
    def wants_pieces(self) -> bool:
        """True if the tokens' texts are asked for, in either form."""
        return bool(self.return_token_strs or self.with_pieces)

    @property
    def is_chat(self) -> bool:
        """True if a conversation is meant."""
        return self.messages is not None

    def check(self) -> None:
        """Raise ApiError for what cannot be meant or done."""
        given = [
            name for name in ("prompt", "content", "messages") if getattr(self, name) is not None
        ]
        if not given:
            what = "Missing required parameter: 'prompt' (or 'content', or 'messages')."
            raise ApiError("missing_required_parameter", what, "prompt")
        if len(given) > 1:
            what = f"'{given[0]}' and '{given[1]}' exclude each other."
            raise ApiError("invalid_value", what, given[1])
        if self.parse_special is False:
            what = "'parse_special' false is not supported: special tokens written out count."
            raise ApiError("unsupported_parameter", what, "parse_special")
        if self.is_chat and self._asked_special:
            what = "A chat template adds the special tokens itself."
            raise ApiError("unsupported_parameter", what, "add_special_tokens")

    @property
    def text(self) -> str:
        """The text to tokenize."""
        return (self.content if self.prompt is None else self.prompt) or ""

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the text gets BOS and its like, where the model wants them."""
        asked = self._asked_special
        return self.prompt is not None if asked is None else asked

    @property
    def _asked_special(self) -> bool | None:
        return self.add_special if self.add_special_tokens is None else self.add_special_tokens


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """POST /detokenize."""

    tokens: list[_TokenId]
    model: str = "default"


class Piece(msgspec.Struct, frozen=True):
    """llama-server's token: its text, or its bytes where they are no whole characters."""

    id: int
    piece: str | list[int]

    @classmethod
    def of(cls, token_id: int, piece: bytes) -> "Piece":
        """A token and what it adds to the text."""
        try:
            return cls(token_id, piece.decode())
        except UnicodeDecodeError:
            return cls(token_id, list(piece))


class Tokenized(msgspec.Struct, frozen=True):
    """What both servers answer to /tokenize, in one object."""

    count: int
    max_model_len: int
    tokens: list[int] | list[Piece]
    token_strs: list[str] | None = None


class Detokenized(msgspec.Struct, frozen=True):
    """The text: `prompt` is vLLM's name, `content` llama-server's."""

    prompt: str
    content: str


class Rendered(msgspec.Struct, frozen=True):
    """A chat as the model reads it."""

    prompt: str

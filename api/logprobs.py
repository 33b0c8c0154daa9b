"""Log-probabilities as OpenAI's objects, in the shape of chats and in that of completions. Pure."""

from collections.abc import Sequence

from api.schema.response import ChatLogprobs, ChatToken, ChatTop, TextLogprobs
from workers.contract import TokenLogprob

# JSON has no infinity; this is what OpenAI and vLLM say of what cannot be.
LEAST = -9999.0


def chat_logprobs(told: Sequence[TokenLogprob]) -> ChatLogprobs:
    """The tokens of a chat's answer."""
    return ChatLogprobs([_chat_token(item) for item in told])


def _chat_token(item: TokenLogprob) -> ChatToken:
    top = [ChatTop(_text(t), _finite(value), list(t)) for t, value in item.top]
    return ChatToken(_text(item.token), _finite(item.logprob), list(item.token), top)


class TextOffsets:
    """Where each token of one choice's text begins, counted in the tokens' own characters."""

    def __init__(self) -> None:
        self._length = 0

    def logprobs(self, told: Sequence[TokenLogprob]) -> TextLogprobs:
        """The next tokens of a completion; the prompt's first token has no log-probability."""
        tokens = [_name(item.token) for item in told]
        offsets = []
        for item in told:
            offsets.append(self._length)
            self._length += len(_text(item.token))
        return TextLogprobs(
            tokens=tokens,
            token_logprobs=[None if x.logprob is None else _finite(x.logprob) for x in told],
            top_logprobs=[_top(item) for item in told],
            text_offset=offsets,
        )


def _top(item: TokenLogprob) -> dict[str, float] | None:
    """The most probable tokens, and the token itself if it is not one of them."""
    if item.logprob is None:
        return None
    top = {_name(token): _finite(value) for token, value in item.top}
    top.setdefault(_name(item.token), _finite(item.logprob))
    return top


def _text(token: bytes) -> str:
    return token.decode(errors="replace")


def _name(token: bytes) -> str:
    """A token as text, or its bytes where it is a part of a character, as OpenAI writes them."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _finite(value: float | None) -> float:
    return LEAST if value is None else max(value, LEAST)

"""The vocabulary of files older than GGUF, whose tokens are bare bytes without types.

Layout: the first Llama's, as ggml's converters wrote it. Knows no algorithm.
"""

from collections.abc import Sequence

from engine.text.sentencepiece import SPACE

_FIRST = ("<unk>", "<s>", "</s>")
_NUM_FIXED = len(_FIRST) + 256


def with_token_names(tokens: Sequence[str]) -> list[str]:
    """The tokens with the names that SentencePiece has for them.

    There, the first three have no text or one to show, 256 single bytes follow, and spaces are
    spaces. A vocabulary that has `<0xNN>` tokens is left as it is.
    """
    if "<0x0A>" in tokens or len(tokens) < _NUM_FIXED:
        return list(tokens)
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [token.replace(" ", SPACE) for token in tokens[_NUM_FIXED:]]
    return [*_FIRST, *byte_tokens, *pieces]

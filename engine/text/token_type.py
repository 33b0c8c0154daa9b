"""What kinds of tokens a SentencePiece or GGUF vocabulary tells apart."""

from enum import IntEnum


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type` of a GGUF file, `SentencePiece.Type` of a tokenizer.model."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6

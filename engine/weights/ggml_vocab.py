"""The tokenizer in a GGML file, as a GGUF file would describe it. Torch-free.

The rules are those of llama.cpp's convert-llama-ggml-to-gguf.py.
"""

from pathlib import Path
from typing import Any

from engine.errors import LoadError
from engine.weights.ggml_header import read_ggml

_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # as `tokenizer.ggml.token_type`
_NAMED = {0: ("<unk>", _UNKNOWN), 1: ("<s>", _CONTROL), 2: ("</s>", _CONTROL)}
_BYTE_IDS = range(3, 259)


def read_ggml_vocab(path: Path) -> dict[str, Any]:
    """Metadata keys of a SentencePiece tokenizer: model, tokens, scores, types, ids.

    The file has a token's text in bytes, with plain spaces, and nothing for what controls. Raises
    LoadError for a damaged file and for one of the first version, which has no scores.
    """
    header = read_ggml(path)
    if header.scores is None:
        raise LoadError(
            f"{path} is of a GGML version without scores of tokens; name a tokenizer with -t."
        )
    tokens = [_token(id_, text) for id_, text in enumerate(header.tokens)]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [token for token, _ in tokens],
        "tokenizer.ggml.scores": header.scores,
        "tokenizer.ggml.token_type": [kind for _, kind in tokens],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _token(id_: int, text: bytes) -> tuple[str, int]:
    if id_ in _NAMED:
        return _NAMED[id_]
    if len(text) == 1 and (id_ in _BYTE_IDS or text[0] > 0x7F):
        return f"<0x{text[0]:02X}>", _BYTE
    if not text:
        return f"<control {id_}>", _CONTROL
    return text.decode("utf-8", "replace").replace(" ", "\u2581"), _NORMAL

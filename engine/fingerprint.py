"""A cheap name for a set of weights and their tokens. Knows files only.

Engines with the same one can continue each other's streams.
"""

from hashlib import blake2b
from pathlib import Path

import msgspec

from engine.weights.files import ModelFiles

_NUM_SAMPLES = 16
_SAMPLE_BYTES = 4096
_HEAD_BYTES = 1 << 16  # safetensors and GGUF name their tensors, with shapes, at the beginning
_VOCABULARIES = (
    *("tokenizer.json", "tokenizer.model", "tekken.json"),
    *("vocab.json", "merges.txt", "added_tokens.json", "vocab.txt"),
)


def fingerprint(files: ModelFiles, config: msgspec.Struct) -> str:
    """32 hex digits of `config` (the model's shape), of its weight files and of its vocabulary.

    Of a weight file they cover the size, the head, and samples spread over it.
    """
    digest = blake2b(msgspec.json.encode(config), digest_size=16)
    for path in files.weights:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        for part in _samples(path, size):
            digest.update(part)
    for path in _vocabulary(files):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def _vocabulary(files: ModelFiles) -> list[Path]:
    """Files of the tokenizer, where it is not inside the weights': others make other tokens."""
    directory = files.tokenizer or (files.directory if files.kind == "plain" else None)
    if directory is None:
        return []
    return [path for name in _VOCABULARIES if (path := directory / name).is_file()]


def _samples(path: Path, size: int) -> list[bytes]:
    with path.open("rb") as file:
        parts = [file.read(_HEAD_BYTES)]
        for index in range(1, _NUM_SAMPLES + 1):
            file.seek(max(0, size * index // _NUM_SAMPLES - _SAMPLE_BYTES))
            parts.append(file.read(_SAMPLE_BYTES))
    return parts

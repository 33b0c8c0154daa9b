"""Compares the family that a user names with the one of config.json. Reads no more of it."""

from pathlib import Path

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json

# mistral.rs's names, where they are not the class's own in lower case
_NAMES = {"phi2": "phi", "phi3.5moe": "phimoe"}
_ENDINGS = (
    *("forcausallm", "forconditionalgeneration", "forsequenceclassification", "formaskedlm"),
    "model",
)


class _Config(msgspec.Struct):
    architectures: list[str] = []


def check_asked(arch: str, directory: Path) -> None:
    """Raise LoadError if config.json is of another family than `arch`.

    `LlamaForCausalLM` and `llama`, as mistral.rs has it, are the same.
    """
    path = directory / "config.json"
    found = read_json(path, _Config).architectures
    if found and _family(found[0]) != _family(arch):
        raise LoadError(
            f"{path} names the architecture {found[0]}, not {arch}; leave --arch out or correct it."
        )


def _family(name: str) -> str:
    text = name.lower()
    for ending in _ENDINGS:
        text = text.removesuffix(ending)
    return _NAMES.get(text, text)

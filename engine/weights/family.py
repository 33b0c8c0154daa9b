"""What a family's files say: looks up its module in weights/families/. Torch-free.

Such a module has `HF`, the keys of config.json by architecture, and `GGUF`, how to read GGUF
metadata and tensor names, by the architecture's name there.
"""

from collections.abc import Mapping
from importlib import import_module

from engine.errors import LoadError
from engine.models.registry import GGUF_FAMILIES, MODELS
from engine.weights.gguf_keys import GgufFamily
from engine.weights.hf_keys import HfKeys

_PACKAGE = "engine.weights.families"


def hf_keys(architecture: str) -> type[HfKeys]:
    """The keys of config.json of an architecture that `check_architecture` accepts."""
    family = MODELS[architecture].rpartition(".")[2]
    keys: type[HfKeys] = import_module(f"{_PACKAGE}.{family}").HF[architecture]
    return keys


def gguf_family(name: str) -> GgufFamily:
    """How to read files whose `general.architecture` is `name`. Raises LoadError for others."""
    if name not in GGUF_FAMILIES:
        raise LoadError(
            f"the GGUF architecture {name} is not supported; supported are "
            f"{', '.join(GGUF_FAMILIES)}"
        )
    family: GgufFamily = import_module(f"{_PACKAGE}.{GGUF_FAMILIES[name]}").GGUF[name]
    return family


def gguf_names(architecture: str) -> Mapping[str, str]:
    """What GGUF files of an architecture of `MODELS` call otherwise than weights/names.py has it.

    That is `GgufFamily.names`; none for architectures whose files go by another's name (Mistral).
    """
    family = MODELS[architecture].rpartition(".")[2]
    families = getattr(import_module(f"{_PACKAGE}.{family}"), "GGUF", {})
    return next((found.names for found in families.values()), {})

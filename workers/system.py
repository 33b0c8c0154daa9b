"""The name of what made an answer: weights and build. Knows no Redis."""

from hashlib import blake2b
from importlib import metadata

from engine.messages import EngineInfo

PACKAGE = "tramontane"


def system_fingerprint(info: EngineInfo) -> str:
    """OpenAI's `system_fingerprint`: another one where the same seed may give another answer.

    It is of the weights, our version, and the device and type that they are computed on and in.
    """
    device = info.device.partition(":")[0]
    parts = (info.fingerprint, build(), device, info.dtype)
    return f"fp_{blake2b('|'.join(parts).encode(), digest_size=8).hexdigest()}"


def build() -> str:
    """The version that is installed; a checkout that is not installed has none."""
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return "checkout"

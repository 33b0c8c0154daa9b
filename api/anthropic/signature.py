"""Thoughts that a client does not want to see, packed so that it gives them back. Pure."""

import base64
import binascii

_PREFIX = "thought:"


def packed(thought: str) -> str:
    """A signature that holds the thought; it hides it from nobody."""
    return _PREFIX + base64.b64encode(thought.encode()).decode()


def unpacked(signature: str) -> str:
    """The thought in a signature; empty if it holds none of ours."""
    if not signature.startswith(_PREFIX):
        return ""
    try:
        return base64.b64decode(signature.removeprefix(_PREFIX), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""

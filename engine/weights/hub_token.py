"""Reads the access token of a Hub from where a setting says. Makes no requests.

Torch-free. No error shows a token.
"""

from collections.abc import Mapping
from os.path import expanduser
from pathlib import Path

from engine.errors import LoadError

Token = str | bool | None  # as huggingface_hub has it: None is its own choice, False is none

_DEFAULT_VARIABLE = "HUGGING_FACE_HUB_TOKEN"


def check_source(source: str) -> None:
    """Raise LoadError for a token source that is written wrong, whether one is needed or not."""
    kind, _, value = source.partition(":")
    if source in ("cache", "none") or (kind in ("literal", "path") and value):
        return
    if kind == "env" and source != "env":
        return
    raise LoadError(
        "The token source must be literal:TOKEN, env:VARIABLE, path:FILE, cache or none, "
        f"not {_without_secret(source)}."
    )


def _without_secret(source: str) -> str:
    kind, colon, value = source.partition(":")
    if not colon:  # it may be the token itself
        return "a word of another kind"
    return f"{kind}: with nothing behind it" if not value else f"one of kind {kind!r}"


def read_token(source: str, environ: Mapping[str, str]) -> Token:
    """The access token that a token source names. Raises LoadError, which never shows the token."""
    check_source(source)
    kind, _, value = source.partition(":")
    if source in ("cache", "none"):
        return None if source == "cache" else False
    if kind == "literal":
        return value
    if kind == "env":
        return _token_from(environ, value or _DEFAULT_VARIABLE)
    return _token_in(Path(expanduser(value)))


def _token_from(environ: Mapping[str, str], variable: str) -> str:
    token = environ.get(variable, "").strip()
    if not token:
        raise LoadError(
            f"The token source env:{variable} names a variable that is not set; set it, "
            "or choose --token-source cache or none."
        )
    return token


def _token_in(path: Path) -> str:
    try:
        token = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"The token file {path} cannot be read ({error}).") from error
    if not token:
        raise LoadError(f"The token file {path} is empty; write the token into it.")
    return token

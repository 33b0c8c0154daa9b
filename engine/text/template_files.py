"""Finds a model's chat template among its files. Knows no Jinja."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json_if_there


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _WithTemplate(msgspec.Struct):
    chat_template: str | list[_NamedTemplate] | None = None


class TemplateSource(NamedTuple):
    """A chat template's text, and that of its variant for requests with tools, if there is one."""

    plain: str
    tools: str | None = None


def find_template(directory: Path, metadata: Mapping[str, Any]) -> TemplateSource | None:
    """The first of chat_template.jinja, tokenizer_config.json, chat_template.json, the GGUF key.

    Raises LoadError for a file that is damaged.
    """
    return (
        _from_jinja(directory / "chat_template.jinja")
        or _from_json(directory / "tokenizer_config.json")
        or _from_json(directory / "chat_template.json")
        or _from_metadata(metadata)
    )


def _from_jinja(path: Path) -> TemplateSource | None:
    if not path.is_file():
        return None
    try:
        return TemplateSource(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read ({error}); put a UTF-8 file there.") from error


def _from_json(path: Path) -> TemplateSource | None:
    document = read_json_if_there(path, _WithTemplate)
    if document is None or not document.chat_template:
        return None
    if isinstance(document.chat_template, str):
        return TemplateSource(document.chat_template)
    return _choose({item.name: item.template for item in document.chat_template}, path)


def _choose(templates: Mapping[str, str], where: Path) -> TemplateSource:
    if "default" in templates:
        return TemplateSource(templates["default"], templates.get("tool_use"))
    if len(templates) == 1:
        return TemplateSource(*templates.values())
    raise LoadError(
        f"{where} has the chat templates {', '.join(sorted(templates))}, and no default; "
        "put the one to use beside it as chat_template.jinja."
    )


def _from_metadata(metadata: Mapping[str, Any]) -> TemplateSource | None:
    plain = metadata.get("tokenizer.chat_template")
    if not plain:
        return None
    return TemplateSource(str(plain), metadata.get("tokenizer.chat_template.tool_use"))

"""Finds a model's chat template: what the user chose, or among its files. Knows no Jinja."""

from collections.abc import Mapping, Sequence
from os.path import expanduser, isfile
from pathlib import Path
from typing import Any

import msgspec

from engine.errors import LoadError
from engine.json_file import read_json, read_json_if_there


class _NamedTemplate(msgspec.Struct):
    name: str
    template: str


class _WithTemplate(msgspec.Struct):
    chat_template: str | list[_NamedTemplate] | None = None
    bos_token: Any = None
    eos_token: Any = None
    unk_token: Any = None


class TemplateSource(msgspec.Struct, frozen=True, kw_only=True):
    """A chat template's text, and that of its variant for requests with tools, if there is one.

    `special_tokens` are those that a user's file names in the place of the model's.
    """

    plain: str
    tools: str | None = None
    special_tokens: Mapping[str, str] = {}


class TemplateChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What the user sets: each a .jinja or .json file, a bundled template's name, or the text.

    `explicit` is `--jinja-explicit`, which goes before `given`, `--chat-template`.
    """

    explicit: str = ""
    given: str = ""


def find_template(
    choice: TemplateChoice,
    directories: Sequence[Path],
    metadata: Mapping[str, Any],
    bundled: Mapping[str, str],
) -> TemplateSource | None:
    """The user's choice, else the first of the directories' files, else the GGUF key.

    In a directory: chat_template.jinja, tokenizer_config.json, chat_template.json. `bundled` are
    the texts of templates that a user may name. Raises LoadError for a file that is damaged, and
    for a choice that is none.
    """
    if choice.explicit:
        return _chosen("--jinja-explicit", choice.explicit, bundled)
    if choice.given:
        return _chosen("--chat-template", choice.given, bundled)
    for directory in directories:
        source = (
            _from_jinja(directory / "chat_template.jinja")
            or _from_json(directory / "tokenizer_config.json")
            or _from_json(directory / "chat_template.json")
        )
        if source is not None:
            return source
    return _from_metadata(metadata)


def _chosen(flag: str, value: str, bundled: Mapping[str, str]) -> TemplateSource:
    if "{{" in value or "{%" in value:
        return TemplateSource(plain=value)
    path = Path(expanduser(value))
    source = None
    if isfile(path):  # unlike Path's, no error for a text that can be no path
        source = _from_users_json(path) if path.suffix == ".json" else _from_jinja(path)
    if source is not None:
        return source
    if value in bundled:
        return TemplateSource(plain=bundled[value])
    raise LoadError(
        f"{flag} {value} is no file; give a .jinja or .json file, the template itself, or one of "
        f"{', '.join(bundled)}."
    )


def _from_users_json(path: Path) -> TemplateSource:
    """A file made for `--chat-template`; its tokens go before the model's."""
    document = read_json(path, _WithTemplate)
    source = _of_document(document, path)
    if source is None:
        raise LoadError(f"{path} has no chat_template; put the template there.")
    names = ("bos_token", "eos_token", "unk_token")
    tokens = {name: getattr(document, name) for name in names}
    return msgspec.structs.replace(
        source, special_tokens={name: t for name, t in tokens.items() if isinstance(t, str)}
    )


def _from_jinja(path: Path) -> TemplateSource | None:
    if not path.is_file():
        return None
    try:
        return TemplateSource(plain=path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read ({error}); put a UTF-8 file there.") from error


def _from_json(path: Path) -> TemplateSource | None:
    document = read_json_if_there(path, _WithTemplate)
    return None if document is None else _of_document(document, path)


def _of_document(document: _WithTemplate, path: Path) -> TemplateSource | None:
    if not document.chat_template:
        return None
    if isinstance(document.chat_template, str):
        return TemplateSource(plain=document.chat_template)
    return _choose({item.name: item.template for item in document.chat_template}, path)


def _choose(templates: Mapping[str, str], where: Path) -> TemplateSource:
    if "default" in templates:
        return TemplateSource(plain=templates["default"], tools=templates.get("tool_use"))
    if len(templates) == 1:
        return TemplateSource(plain=next(iter(templates.values())))
    raise LoadError(
        f"{where} has the chat templates {', '.join(sorted(templates))}, and no default; "
        "put the one to use beside it as chat_template.jinja."
    )


def _from_metadata(metadata: Mapping[str, Any]) -> TemplateSource | None:
    plain = metadata.get("tokenizer.chat_template")
    if not plain:
        return None
    tools = metadata.get("tokenizer.chat_template.tool_use")
    return TemplateSource(plain=str(plain), tools=tools)

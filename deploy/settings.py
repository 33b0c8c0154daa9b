"""All settings of Tramontane in one list, and the table that the README shows. Reads no values."""

from collections.abc import Collection, Iterable
from typing import Annotated, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from api.config import ApiConfig
from deploy.config import LocalConfig
from workers.config import WorkerConfig
from workers.environment import Setting, settings_of

Config = type[msgspec.Struct]

# the first to name a variable gives its row in the table
READERS: dict[str, Config] = {"serve": LocalConfig, "web": ApiConfig, "worker": WorkerConfig}


class Flag(NamedTuple):
    """A setting as the command line offers it. A switch takes no value and writes `writes`."""

    setting: Setting
    name: str
    writes: str | None = None
    choices: tuple[str, ...] = ()


def part_of(config: Config, fields: Collection[str]) -> Config:
    """A config of some of the settings of another, for a command that needs no more of them."""
    hints = get_type_hints(config, include_extras=True)
    chosen = [item for item in settings_of(config) if item.field in fields]
    assert len(chosen) == len(fields), "the config has them all"
    return msgspec.defstruct(
        f"PartOf{config.__name__}",
        [(item.field, hints[item.field], item.default) for item in chosen],
        frozen=True,
        kw_only=True,
    )


def flags_of(configs: Iterable[Config]) -> list[Flag]:
    """The settings of several configs, each variable once, in order of appearance."""
    found: dict[str, Flag] = {}
    for config in configs:
        hints = get_type_hints(config, include_extras=True)
        for item in settings_of(config):
            found.setdefault(item.variable, _flag(item, hints[item.field]))
    return list(found.values())


def _flag(item: Setting, hint: object) -> Flag:
    kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    if kind is not bool:
        return Flag(item, item.flag, choices=get_args(kind) if get_origin(kind) is Literal else ())
    if not item.default:
        return Flag(item, item.flag, "true")
    return Flag(item, "--no-" + item.flag.removeprefix("--no-").removeprefix("--"), "false")


def known_variables() -> frozenset[str]:
    """Every variable that some part of Tramontane reads."""
    return frozenset(flag.setting.variable for flag in flags_of(READERS.values()))


def markdown_table() -> str:
    """The README's table of settings."""
    rows = ["| Flag | Variable | Default | Read by | What it does |", "|---|---|---|---|---|"]
    for flag in flags_of(READERS.values()):
        item = flag.setting
        cells = (f"`{flag.name}`", f"`{item.variable}`", _default(item), _readers(item))
        rows.append(f"| {' | '.join(cells)} | {_text(item)} |")
    return "\n".join(rows)


def _readers(item: Setting) -> str:
    return ", ".join(
        name
        for name, config in READERS.items()
        if any(own.variable == item.variable for own in settings_of(config))
    )


def _default(item: Setting) -> str:
    if item.default in ("", None, ()):
        return ""
    if isinstance(item.default, bool):
        return "on" if item.default else "off"
    return f"`{item.default}`"


def _text(item: Setting) -> str:
    return item.description.replace("|", r"\|")

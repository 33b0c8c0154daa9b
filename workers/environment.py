"""Settings from the environment, read once into a frozen Struct; how to read them, not which.

A setting is a Struct field annotated with `setting(...)`; its variable and its flag follow from
the field's name.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec

PREFIX = "TRAMONTANE_"
T = TypeVar("T", bound=msgspec.Struct)


class SettingError(ValueError):
    """A setting has a bad value or an unknown name; the message says which and what to do."""


class Setting(NamedTuple):
    """One setting as the README's table shows it."""

    field: str
    variable: str
    flag: str
    default: Any
    description: str


def setting(
    description: str, *, variable: str | None = None, flag: str | None = None, **limits: Any
) -> msgspec.Meta:
    """Annotation of a config field. `limits` are msgspec's own (`ge`, `le`, `min_length`, …)."""
    extra = {"variable": variable, "flag": flag}
    return msgspec.Meta(description=description, extra=extra, **limits)


def settings_of(config: type[msgspec.Struct]) -> list[Setting]:
    """The settings of a config Struct, in the order of its fields."""
    hints = get_type_hints(config, include_extras=True)
    return [_describe(field, hints[field.name]) for field in msgspec.structs.fields(config)]


def _describe(field: msgspec.structs.FieldInfo, hint: Any) -> Setting:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"config field {field.name} has no setting(...) annotation")
    meta = next(item for item in get_args(hint)[1:] if isinstance(item, msgspec.Meta))
    extra = meta.extra or {}
    return Setting(
        field.name,
        extra.get("variable") or PREFIX + field.name.upper(),
        extra.get("flag") or "--" + field.name.replace("_", "-"),
        field.default,
        meta.description or "",
    )


def load(config: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Read `config` from `environ` (the process's own by default). Empty counts as unset.

    Raises SettingError, naming the variable, for a value that does not fit.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for item in settings_of(config):
        text = environ.get(item.variable, "")
        if text:
            values[item.field] = _convert(config, item, text)
    return config(**values)


def _convert(config: type[msgspec.Struct], item: Setting, text: str) -> Any:
    hint = get_type_hints(config, include_extras=True)[item.field]
    try:
        return msgspec.convert(text, hint, strict=False)
    except msgspec.ValidationError as error:
        raise SettingError(f"{item.variable}={text!r}: {error}") from error


def refuse_unknown(known: frozenset[str], environ: Mapping[str, str] | None = None) -> None:
    """Raise SettingError for a `TRAMONTANE_…` variable that no part of Tramontane reads."""
    environ = os.environ if environ is None else environ
    unknown = sorted(n for n in environ if n.startswith(PREFIX) and n not in known)
    if unknown:
        raise SettingError(
            f"unknown setting {unknown[0]}; the README's table lists the settings there are"
        )


def variables() -> Mapping[str, str]:
    """The process's own variables, for a setting whose value names one (`env:HF_TOKEN`)."""
    return os.environ

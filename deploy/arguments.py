"""The command line's grammar: flags stand before or after the words, every setting is a flag.

Turns flags into environment variables. Knows no command.
"""

import argparse
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from deploy import settings
from deploy.errors import StartError
from workers.environment import SettingError, load, refuse_unknown

# further spellings of a setting's flag: the short ones, and those of mistral.rs
ALIASES = {
    "--model": ("-m", "--model-id", "--quantized-model-id"),
    "--file": ("-f", "--quantized-filename"),
    "--tok-model-id": ("-t", "--tokenizer-json"),
    "--gqa": ("-g",),
    "--arch": ("-a",),
    "--dtype": ("-d",),
    "--isq": ("--quant",),
    "--max-model-len": ("--max-seq-len",),
    "--host": ("--serve-ip",),
    "--port": ("-p",),
    "--chat-template": ("-c",),
    "--jinja-explicit": ("-j",),
}
# flags of mistral.rs that have no equal here, and what there is in their place
_ELSEWHERE = {
    "--seed": "give `seed` in a request: each has random numbers of its own",
    "--truncate-sequence": "a prompt that is too long is refused, never cut",
    "--no-kv-cache": "there is always a KV cache; --prefix-cache-n 0 keeps requests apart",
    "--interactive-mode": "use `tramontane run`",
}
_SHORT = {"-s": "--seed", "-i": "--interactive-mode"}
_NUMBER = re.compile(r"-\d+(\.\d*)?|-\.\d+")
_SWITCHES = frozenset({"-h", "--help", "--version", "--admin"})


class Parser(argparse.ArgumentParser):
    """A parser that raises StartError with one sentence instead of printing its usage."""

    def __init__(self, program: str, description: str) -> None:
        super().__init__(prog=program, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        raise StartError(f"{message}; see `{self.prog} --help`")

    def parse_flags(self, flags: Sequence[str]) -> argparse.Namespace:
        """Parse what `split` left. Raises StartError for a flag that there is not."""
        values, unknown = self.parse_known_args(flags)
        if unknown:
            name = unknown[0].partition("=")[0]
            if there := _ELSEWHERE.get(_SHORT.get(name, name)):
                self.error(f"unknown flag {name}: {there}")
            self.error(f"unknown flag {name}{self._nearest(name)}")
        return values

    def _nearest(self, flag: str) -> str:
        near = difflib.get_close_matches(flag, self._option_string_actions, n=1, cutoff=0.75)
        return f" (did you mean {near[0]}?)" if near else ""


def split(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Part the words (`serve`, `gguf`, …) from the flags and their values, wherever they stand.

    An unknown flag may swallow the word behind it; parsing refuses it by its name all the same.
    """
    switches = _SWITCHES | {
        flag.name for flag in settings.flags_of(settings.READERS.values()) if flag.writes
    }
    words: list[str] = []
    flags: list[str] = []
    is_value = False
    for text in arguments:
        is_flag = text.startswith("-") and len(text) > 1 and not _NUMBER.fullmatch(text)
        (flags if is_flag or is_value else words).append(text)
        is_value = is_flag and text not in switches and _wants_value(text)
    return words, flags


def _wants_value(flag: str) -> bool:
    return "=" not in flag and (flag.startswith("--") or len(flag) == 2)


def add_settings(parser: argparse.ArgumentParser, configs: Iterable[settings.Config]) -> None:
    """Give the parser a flag for every setting of `configs`; its value lands under the variable."""
    group = parser.add_argument_group("settings", "Each is an environment variable as well.")
    for item, name, writes, choices in settings.flags_of(configs):
        text = f"{item.description} [{item.variable}]".replace("%", "%%")
        if writes is not None:
            group.add_argument(
                name,
                dest=item.variable,
                action="store_const",
                const=writes,
                default=argparse.SUPPRESS,
                help=text,
            )
        else:
            group.add_argument(
                name,
                *ALIASES.get(name, ()),
                dest=item.variable,
                default=argparse.SUPPRESS,
                choices=choices or None,
                metavar=str(item.default) or item.field.upper(),
                help=text,
            )


def environment(
    values: argparse.Namespace, configs: Iterable[settings.Config], environ: Mapping[str, str]
) -> dict[str, str]:
    """`environ` with the flags' values written over it, checked against `configs`.

    Raises StartError naming the flag or the variable at fault.
    """
    names = {flag.setting.variable: flag.name for flag in settings.flags_of(configs)}
    given = {key: str(value) for key, value in vars(values).items() if key in names}
    merged = {**environ, **given}
    try:
        refuse_unknown(settings.known_variables(), merged)
        for config in configs:
            load(config, merged)
    except SettingError as error:
        message = str(error)
        for variable, text in given.items():
            message = message.replace(f"{variable}={text!r}", f"{names[variable]} {text!r}")
        raise StartError(message) from error
    return merged

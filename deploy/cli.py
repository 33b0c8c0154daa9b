"""The `tramontane` command: finds the command in the arguments, settles its environment, runs it.

Every refusal is one sentence on stderr and exit status 2.
"""

import argparse
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from deploy import arguments, packages, settings
from deploy.errors import StartError

# command -> the module that has it, imported when it is chosen
COMMANDS = {
    "serve": "deploy.local",
    "chat": "deploy.chat",
    "run": "deploy.run",
    "worker": "deploy.worker_role",
    "api": "deploy.api_role",
    "check": "deploy.check",
    "chaos": "deploy.chaos",
    "keys": "deploy.keys",
    "quantize": "deploy.quantize",
    "re-isq": "deploy.re_isq",
    "settings": "deploy.settings_command",
}
KINDS = ("plain", "gguf", "ggml")
# kinds of mistral.rs that this version does not serve -> what they are
_NOT_SERVED = {
    "vision-plain": "vision models",
    "multimodal": "vision models",
    "diffusion-plain": "image generation",
    "diffusion": "image generation",
    "speculative": "speculative decoding",
    "speech": "speech models",
    "embedding": "embedding models",
    "toml": "model selection from a file",
    **dict.fromkeys(("lora", "lora-plain", "lora-gguf", "lora-ggml"), "LoRA adapters"),
    **dict.fromkeys(("x-lora", "x-lora-plain", "x-lora-gguf", "x-lora-ggml"), "X-LoRA adapters"),
}
ACTIONS = {"keys": ("new", "hash")}
KIND_VARIABLE = "TRAMONTANE_KIND"

USAGE = """usage: tramontane [flags] [command] [flags]

commands
  serve [KIND] -m MODEL        everything on this machine; without a model, the built-in one
  plain -m DIR_OR_REPO         the same as `serve plain`: safetensors
  gguf -m DIR_OR_REPO -f FILE  the same as `serve gguf`; FILE is a name, `*Q4_K_M*`, Q4_K_M or 4
  ggml -m DIR_OR_REPO -f FILE  the same as `serve ggml`: llama.cpp's files of before GGUF
  chat                         chat with a running server
  run -m MODEL -i PROMPT       generate in one process, without Redis
  worker, api                  one role of many machines: the engine, the HTTP server
  check                        are the settings good and is Redis fit? (release step)
  chaos                        kill an API process and a worker in mid-stream: no token is lost
  keys new --tenant NAME       a fresh API key, and its entry for the file of keys
  keys hash                    the hash of a key on stdin, as the file has it
  quantize -m MODEL --type T -o NAME  FILE.gguf of it, packed as Q4_K_M, Q8_0, …; or a directory
  re-isq --type T              a running server's model in another type, while it serves
  settings                     every setting, as a table

`tramontane COMMAND --help` lists a command's flags. Flags may stand before the command."""


class Command(Protocol):
    """What a command's module has."""

    SUMMARY: str
    CONFIGS: tuple[settings.Config, ...]

    def add_flags(self, parser: argparse.ArgumentParser) -> None: ...

    def main(self, values: argparse.Namespace, environ: Mapping[str, str]) -> int: ...


class Call(NamedTuple):
    """A command line, understood: run `command.main(values, environ)`."""

    command: Command
    values: argparse.Namespace
    environ: dict[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _run(argv)
    except StartError as error:
        print(f"tramontane: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of our output has left; without this Python complains once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(f"tramontane {importlib.metadata.version('tramontane')}")
        return 0
    packages.prefer_own()
    call = parse(argv, os.environ)
    return call.command.main(call.values, call.environ)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Call:
    """Understand a command line. Raises StartError with one sentence."""
    words, flags = arguments.split(argv)
    name, kind, action = _name(words)
    command: Command = importlib.import_module(COMMANDS[name])
    parser = arguments.Parser(f"tramontane {name}", command.SUMMARY)
    command.add_flags(parser)
    arguments.add_settings(parser, command.CONFIGS)
    values = parser.parse_flags(flags)
    if name in ACTIONS:
        values.action = action
    settled = arguments.environment(values, command.CONFIGS, environ)
    if kind:
        settled[KIND_VARIABLE] = kind
        if not settled.get("TRAMONTANE_MODEL"):
            raise StartError(f"{kind} needs a model: -m DIR_OR_REPO")
    return Call(command, values, settled)


def _name(words: Sequence[str]) -> tuple[str, str, str]:
    """The command, model kind and action that the words name. No words mean `serve`."""
    rest = list(words)
    name = rest.pop(0) if rest and rest[0] in COMMANDS else "serve"
    kind = rest.pop(0) if name in ("serve", "run") and rest and rest[0] in KINDS else ""
    action = rest.pop(0) if rest and rest[0] in ACTIONS.get(name, ()) else ""
    if rest and rest[0] in _NOT_SERVED:
        raise StartError(
            f"{rest[0]} ({_NOT_SERVED[rest[0]]}) is not built yet: this version serves "
            f"{', '.join(KINDS)}"
        )
    if rest:
        raise StartError(
            f"{rest[0]!r} is not expected here: a command is one of {', '.join(COMMANDS)}, "
            f"a kind of model {', '.join(KINDS)}"
        )
    return name, kind, action


if __name__ == "__main__":
    sys.exit(main())

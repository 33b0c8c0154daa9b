"""`tramontane chat`: a conversation in the terminal, or one question a line from a pipe."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from deploy.client import Client, Message, ServerError
from deploy.errors import StartError

SUMMARY = "chat with a running server"
CONFIGS = ()

HELP = """/clear        forget the conversation
/system TEXT  set the system message and forget the conversation
/exit         leave (so does Ctrl-D); Ctrl-C stops an answer"""

_SAMPLING = {"temperature": float, "top_p": float, "max_tokens": int, "seed": int}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `chat`."""
    parser.add_argument("--url", default="", help="the server (default http://127.0.0.1:PORT)")
    parser.add_argument("-p", "--port", default="", help="the server's port on this machine")
    parser.add_argument("--api-key", default="", help="sent as a bearer token")
    parser.add_argument("-m", "--model", default="default", help="the model to ask for")
    parser.add_argument("--system", default="", help="the system message")
    for name, kind in _SAMPLING.items():
        parser.add_argument("--" + name.replace("_", "-"), type=kind)


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Talk until the input ends. 0, or 1 if an answer to piped input failed."""
    options: dict[str, Any] = {name: vars(values)[name] for name in _SAMPLING}
    options = {name: value for name, value in options.items() if value is not None}
    options["model"] = values.model
    url = values.url or f"http://127.0.0.1:{values.port or environ.get('PORT') or 1234}"
    chat = Chat(Client(url, api_key=values.api_key, options=options).stream, values.system)
    if sys.stdin.isatty():
        return chat.run(prompted_lines(), is_interactive=True)
    return chat.run(map(str.strip, sys.stdin), is_interactive=False)


Ask = Callable[[Sequence[Message]], Generator[str]]


class Chat:
    """A conversation: its history, its commands. `ask` streams the answer to a list of messages."""

    def __init__(self, ask: Ask, system: str = "") -> None:
        self._ask = ask
        self._set_system(system)

    def _set_system(self, text: str) -> None:
        self._system: list[Message] = [{"role": "system", "content": text}] if text else []
        self._history: list[Message] = []

    def run(self, lines: Iterable[str], *, is_interactive: bool) -> int:
        """Answer every line. An error ends a pipe's conversation, and is shown in a terminal's."""
        if is_interactive:
            print("Type a message, or /help for the commands.")
        for line in lines:
            if line == "/exit":
                break
            try:
                self._take(line)
            except (ServerError, StartError) as error:
                print(f"tramontane: {error}", file=sys.stderr)
                if not is_interactive:
                    return 2 if isinstance(error, StartError) else 1
        return 0

    def _take(self, line: str) -> None:
        command, _, rest = line.partition(" ")
        if command == "/help":
            print(HELP)
        elif command == "/clear":
            self._history.clear()
        elif command == "/system":
            self._set_system(rest.strip())
        elif line.startswith("/"):
            print(f"there is no {command}; /help lists the commands")
        elif line:
            self._answer(line)

    def _answer(self, text: str) -> None:
        question = {"role": "user", "content": text}
        pieces: list[str] = []
        answer = self._ask([*self._system, *self._history, question])
        try:
            with contextlib.suppress(KeyboardInterrupt), contextlib.closing(answer):
                for piece in answer:
                    pieces.append(piece)
                    print(piece, end="", flush=True)
        finally:
            print()
        self._history += [question, {"role": "assistant", "content": "".join(pieces)}]


def prompted_lines() -> Iterator[str]:
    """Lines typed at a prompt until Ctrl-D; Ctrl-C drops the line."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing for input())
    while True:
        try:
            yield input("\n> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()

"""`tramontane chaos`: kills an API process and a worker before your eyes; the answer goes on.

Asks once undisturbed and again with the killings, and compares what came.
"""

import argparse
import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import FrameType
from typing import Any, NamedTuple

from deploy.chaos_client import Follower, Piece
from deploy.chaos_stage import LEASE_S, Stage
from deploy.errors import StartError

SUMMARY = "kill an API process and a worker in mid-stream and see that no token is lost"
CONFIGS = ()

QUESTION = "Tell me a long story about the wind."
_POLL_S = 0.002
_PAUSE_S = LEASE_S / 4
_AHEAD_S = 60.0  # how long a stream may take to reach the moment of the killing


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `chaos`."""
    parser.add_argument("--streams", type=_count, default=1, help="answers at once (default 1)")
    parser.add_argument("--rounds", type=_count, default=1, help="times to do it (default 1)")
    parser.add_argument(
        "--tokens", type=_count, default=200, help="length of an answer (default 200)"
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def main(values: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """0 if every answer was the undisturbed one, else 1. Raises StartError."""
    signal.signal(signal.SIGTERM, _interrupt)
    questions = [_question(number, values.tokens) for number in range(values.streams)]
    _note("starting a private Redis, two API processes, two workers with the built-in model")
    with Stage(environ) as stage:
        show = Show(stage, questions)
        show.undisturbed()
        results: list[Result] = []
        for number in range(values.rounds):
            if number:
                _note("replacing what was killed")
                stage.complete()
            results += show.disturbed()
    return _report(results)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _question(number: int, max_tokens: int) -> dict[str, Any]:
    """The first is greedy, the others draw, each by its own seed."""
    return {
        "model": "builtin",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0.8 if number else 0,
        "seed": number,
        "max_tokens": max_tokens,
        "ignore_eos": True,
    }


class Result(NamedTuple):
    """One answer against the undisturbed one. `pause_s`: its longest wait for a next token."""

    num_lost: int
    num_doubled: int
    is_equal: bool
    pause_s: float
    error: str

    @property
    def is_good(self) -> bool:
        """Nothing was lost, nothing came twice."""
        return self.is_equal and not (self.num_lost or self.num_doubled or self.error)


class Show:
    """The undisturbed answers, and the same questions with killings."""

    def __init__(self, stage: Stage, questions: Sequence[Mapping[str, Any]]) -> None:
        self._stage = stage
        self._questions = questions
        self._undisturbed: list[Follower] = []

    def undisturbed(self) -> None:
        """Ask, and keep the answers. Raises StartError if that alone fails."""
        _note(f"the question: {QUESTION}")
        _note("undisturbed:")
        followers = self._ask(_Printer())
        began_s = time.monotonic()
        _join(followers)
        print(flush=True)
        for follower in followers:
            if follower.error:
                raise StartError(f"the undisturbed answer failed: {follower.error}")
        _note(f"{len(followers[0].pieces)} tokens in {time.monotonic() - began_s:.1f} s")
        self._undisturbed = followers

    def disturbed(self) -> list[Result]:
        """Ask again, kill in mid-stream, and compare."""
        _note("again, with a killing in mid-stream:")
        printer = _Printer()
        followers = self._ask(printer)
        api = self._stage.apis[0]
        try:
            self._wait_for_the_middle(followers)
            worker = self._stage.busiest(len(followers))
            killed_s = time.monotonic()
            with printer.killing(killed_s):
                self._stage.kill(api, worker)
                _note(
                    f"SIGKILL: API process {api.pid}, worker {worker.pid} and its engine, "
                    f"after {len(followers[0].pieces)} tokens"
                )
                left = f"API process {self._stage.apis[0].pid}, worker {self._stage.workers[0].pid}"
                _note(f"left are {left}; a dead worker's lease ends after {LEASE_S:g} s")
            _join(followers)
        finally:
            print(flush=True)
        pairs = zip(followers, self._undisturbed, strict=True)
        return [_compare(follower, before, killed_s) for follower, before in pairs]

    def _ask(self, printer: "_Printer") -> list[Follower]:
        ports = [api.port for api in self._stage.apis]
        hear: list[Callable[[Piece], None]] = [printer, *[_ignore] * (len(self._questions) - 1)]
        followers = [
            Follower(ports, question, on_piece=on_piece)
            for question, on_piece in zip(self._questions, hear, strict=True)
        ]
        for follower in followers:
            follower.start()
        return followers

    def _wait_for_the_middle(self, followers: Sequence[Follower]) -> None:
        """Until every stream has a quarter of its answer. Raises StartError if one ends before."""
        deadline = time.monotonic() + _AHEAD_S
        goals = [len(before.pieces) // 4 for before in self._undisturbed]
        pairs = list(zip(followers, goals, strict=True))
        while behind := [f for f, goal in pairs if len(f.pieces) < goal]:
            if time.monotonic() > deadline or not all(f.is_alive() for f in behind):
                why = next((f.error for f in behind if f.error), "they do not come")
                raise StartError(f"the answers fail before anything was killed: {why}")
            time.sleep(_POLL_S)


class _Printer:
    """Prints the pieces of one stream as they come; notes stand on lines of their own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._killed_s: float | None = None
        self._is_resumed = False
        self._last_s = 0.0

    def __call__(self, piece: Piece) -> None:
        with self._lock:
            if self._killed_s is not None:
                self._tell_who_goes_on(piece, piece.at_s - self._killed_s)
            self._last_s = piece.at_s
            print(piece.text, end="", flush=True)

    def _tell_who_goes_on(self, piece: Piece, after_s: float) -> None:
        """First the other API process, with what the log has; after a pause the other worker."""
        if not self._is_resumed:
            self._is_resumed = True
            _note(f"the other API process goes on with event {piece.number}, after {after_s:.2f} s")
        elif piece.at_s - self._last_s > _PAUSE_S:
            print()
            _note(f"the other worker goes on with event {piece.number}, after {after_s:.2f} s")

    @contextlib.contextmanager
    def killing(self, killed_s: float) -> Iterator[None]:
        """A context in which notes are written and no text; what comes later is timed from it."""
        with self._lock:
            self._killed_s = killed_s
            print(flush=True)
            yield


def _ignore(piece: Piece) -> None:
    """Only the first stream is shown."""


def _join(followers: Sequence[Follower]) -> None:
    for follower in followers:
        while follower.is_alive():  # in short waits, so that Ctrl-C is heard
            follower.join(0.1)


def _compare(follower: Follower, before: Follower, killed_s: float) -> Result:
    got = Counter(piece.number for piece in follower.pieces)
    expected = {piece.number for piece in before.pieces}
    times = [piece.at_s for piece in follower.pieces]
    pauses = [later - sooner for sooner, later in pairwise(times)]
    error = follower.error
    if not error and follower.num_ends != 1:
        error = f"{follower.num_ends} times an end"
    if not error and times[-1] < killed_s:
        error = "the answer was over before the killing"
    return Result(
        len(expected - got.keys()),
        sum(count - 1 for count in got.values()) + len(got.keys() - expected),
        follower.text == before.text,
        max(pauses, default=0.0),
        error,
    )


def _report(results: Sequence[Result]) -> int:
    num_equal = sum(result.is_equal for result in results)
    for error in sorted({result.error for result in results if result.error}):
        _note(f"failed: {error}")
    print()
    print(f"tokens lost              {sum(result.num_lost for result in results)}")
    print(f"tokens doubled           {sum(result.num_doubled for result in results)}")
    print(f"answers equal            {num_equal} of {len(results)}")
    print(f"time to the next token   {max(result.pause_s for result in results):.2f} s")
    return 0 if all(result.is_good for result in results) else 1


def _note(text: str) -> None:
    print(f"[{text}]", flush=True)

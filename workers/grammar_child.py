"""Tries grammars, each in a process of its own that ends by itself when it takes too much.

This process loads the vocabulary once, and forks for every grammar. Knows no job.
"""

import os
import resource
import selectors
import signal
import sys
from pathlib import Path

import msgspec

from engine.errors import EngineError
from engine.text.grammar import Matching, make_vocabulary, try_grammar
from engine.text.text_model import load_vocabulary
from workers.engine_frames import FrameBuffer
from workers.grammar_frames import Order, Trial, Verdict, decode_order, decode_trial, frame

CPU_S = 0.5
WALL_S = 0.8
MEMORY_BYTES = 512 << 20  # more than this process has
READ_BYTES = 1 << 20
_OURS, _THEIRS = 1, 0  # our answers go to standard output, trials come by standard input
TOO_MUCH = "It takes too much time or memory to compile; make it smaller or less nested."


def main() -> int:
    """Serve until the worker closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Trials().run()
    return 0


class Trials:
    """The processes that try a grammar, by id, and the trials that they are at."""

    def __init__(self) -> None:
        self._running: dict[int, int] = {}
        self._buffer = FrameBuffer()
        self._matching: Matching | None = None
        self._refusal = ""

    def run(self) -> None:
        """Take orders until there are no more."""
        wakes, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake)
        selector = selectors.DefaultSelector()
        selector.register(_THEIRS, selectors.EVENT_READ)
        selector.register(wakes, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if wakes in ready:
                os.read(wakes, READ_BYTES)
                self._reap()
            if _THEIRS in ready and not self._read():
                return

    def _read(self) -> bool:
        data = os.read(_THEIRS, READ_BYTES)
        for body in self._buffer.feed(data):
            if self._matching is None and not self._refusal:
                self._load(decode_order(body))
            else:
                self._try(decode_trial(body))
        return bool(data)

    def _load(self, order: Order) -> None:
        try:
            tokenizer = load_vocabulary(order.files).with_eos_ids(order.eos_ids)
            self._matching = make_vocabulary(tokenizer, order.vocab_size)
        except EngineError as error:
            self._refusal = str(error)

    def _try(self, trial: Trial) -> None:
        if self._matching is None:
            _answer(Verdict(trial.id, self._refusal))
            return
        pid = os.fork()
        if pid == 0:
            _try_here(self._matching, trial)
        self._running[pid] = trial.id

    def _reap(self) -> None:
        """Answer for those that could not."""
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._running.pop(pid)
            if status != 0:
                _answer(Verdict(number, TOO_MUCH))


def _try_here(matching: Matching, trial: Trial) -> None:
    """Answer and end. A limit that is met ends the process on the spot, wherever it is."""
    status = 1
    try:
        for number in (signal.SIGALRM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, WALL_S)
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        _limit_memory()
        os.nice(10)
        problem = ""
        try:
            try_grammar(matching.tokenizer, trial.grammar)
        except EngineError as error:
            problem = str(error)
        _answer(Verdict(trial.id, problem))
        status = 0
    finally:
        os._exit(status)


def _limit_memory() -> None:
    sizes = Path("/proc/self/statm")
    if sizes.exists():  # elsewhere an address space cannot be limited
        now = int(sizes.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, most))


def _answer(verdict: Verdict) -> None:
    """In one write, short enough to be one for the pipe too."""
    short = msgspec.structs.replace(verdict, problem=verdict.problem[:400])
    os.write(_OURS, frame(short))


if __name__ == "__main__":
    sys.exit(main())

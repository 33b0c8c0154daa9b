"""Tries grammars, each in a process of its own that ends by itself when it takes too much.

This process loads the vocabulary once, and forks for every grammar. Knows no job.
"""

import os
import resource
import selectors
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from engine.errors import EngineError
from engine.text.gbnf import with_lark
from engine.text.grammar import MAX_ERROR, Matching, make_vocabulary, try_grammar
from engine.text.text_model import load_vocabulary
from workers.engine_frames import FrameBuffer
from workers.grammar_frames import LOADED, Order, Trial, Verdict, decode_order, decode_trial, frame

CPU_S = 0.5
WALL_S = 4.0  # for what would wait; the engine beside us may leave us little of the processor
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


class _Running(NamedTuple):
    """A process that tries a grammar: whose it is, and what it has said so far."""

    pid: int
    trial_id: int
    said: bytearray


class Trials:
    """The processes that try a grammar, by the pipe that each speaks through."""

    def __init__(self) -> None:
        self._running: dict[int, _Running] = {}
        self._selector = selectors.DefaultSelector()
        self._buffer = FrameBuffer()
        self._matching: Matching | None = None
        self._refusal = ""

    def run(self) -> None:
        """Take orders until there are no more."""
        self._selector.register(_THEIRS, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fd != _THEIRS:
                    self._hear(key.fd)
                elif not self._read():
                    return

    def _read(self) -> bool:
        data = os.read(_THEIRS, READ_BYTES)
        for body in self._buffer.feed(data):
            if self._matching is None and not self._refusal:
                self._load(decode_order(body))
                _write(_OURS, frame(Verdict(LOADED, self._refusal)))
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
            _write(_OURS, frame(Verdict(trial.id, self._refusal)))
            return
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            _try_here(self._matching, trial, theirs)
        os.close(theirs)
        self._running[ours] = _Running(pid, trial.id, bytearray())
        self._selector.register(ours, selectors.EVENT_READ)

    def _hear(self, pipe: int) -> None:
        """Some of an answer; when that is over pass it on, or answer for those that could not."""
        running = self._running[pipe]
        if data := os.read(pipe, READ_BYTES):
            running.said.extend(data)
            return
        del self._running[pipe]
        self._selector.unregister(pipe)
        os.close(pipe)
        _, status = os.waitpid(running.pid, 0)
        is_whole = status == 0
        _write(_OURS, running.said if is_whole else frame(Verdict(running.trial_id, TOO_MUCH)))


def _try_here(matching: Matching, trial: Trial, pipe: int) -> None:
    """Answer and end. A limit that is met ends the process on the spot, wherever it is."""
    status = 1
    try:
        signal.setitimer(signal.ITIMER_REAL, WALL_S)
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        _limit_memory()
        os.nice(10)
        _write(pipe, frame(_verdict(matching, trial)))
        status = 0
    finally:
        os._exit(status)


def _verdict(matching: Matching, trial: Trial) -> Verdict:
    try:
        grammar = with_lark(trial.grammar)
        try_grammar(matching.tokenizer, grammar)
    except EngineError as error:
        return Verdict(trial.id, str(error)[:MAX_ERROR])
    return Verdict(trial.id, "", "" if grammar == trial.grammar else grammar)


def _write(pipe: int, data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def _limit_memory() -> None:
    sizes = Path("/proc/self/statm")
    if sizes.exists():  # elsewhere an address space cannot be limited
        now = int(sizes.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY_BYTES, most))


if __name__ == "__main__":
    sys.exit(main())

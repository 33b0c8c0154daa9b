"""Has a grammar tried before an engine sees it. Knows a child process, no grammar."""

import asyncio
import contextlib
import itertools
import sys
from collections import OrderedDict
from collections.abc import Iterable

from engine.errors import InvalidInput
from engine.weights.files import ModelFiles
from workers.engine_frames import HEADER_BYTES
from workers.environment import variables
from workers.grammar_frames import MAX_BYTES, Order, Trial, Verdict, decode_verdict, frame

MAX_KNOWN = 512  # grammars that were tried before and are good
MAX_AT_ONCE = 4
LOAD_S = 60.0
ANSWER_S = 10.0  # a trial ends by itself long before
# The child forks, so nothing in it may have threads.
_ALONE = {"TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


class GrammarTrial:
    """Starts its child with the first grammar, and again if it was lost."""

    def __init__(self, files: ModelFiles, vocab_size: int, eos_ids: Iterable[int]) -> None:
        self._order = Order(files, vocab_size, tuple(eos_ids))
        self._known: OrderedDict[str, str] = OrderedDict()
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[Verdict]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._turn = asyncio.Semaphore(MAX_AT_ONCE)
        self._start = asyncio.Lock()  # else each of several first grammars starts a child

    async def check(self, grammar: str, param: str | None) -> str:
        """What an engine is to be given for `grammar`.

        Raises InvalidInput for one that does not compile, or not within the limits.
        """
        if grammar in self._known:
            self._known.move_to_end(grammar)
            return self._known[grammar]
        if len(grammar) > MAX_BYTES:
            raise _refusal(f"It has more than {MAX_BYTES} bytes.", param)
        async with self._turn:
            verdict = await self._try(grammar)
        if verdict.problem:
            raise _refusal(verdict.problem, param)
        self._known[grammar] = verdict.converted or grammar
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
        return verdict.converted or grammar

    async def _try(self, grammar: str) -> Verdict:
        """What the child says of it. A child that dies is no one's fault: it is tried once more."""
        for _ in range(2):
            number = next(self._numbers)
            answer: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
            try:
                process = await self._child()
                self._answers[number] = answer
                assert process.stdin is not None
                process.stdin.write(frame(Trial(number, grammar)))
                async with asyncio.timeout(ANSWER_S):
                    return await answer
            except (ConnectionError, EOFError, TimeoutError):
                await self.close()
            finally:
                self._answers.pop(number, None)
        raise RuntimeError("the trial of grammars does not answer")

    async def _child(self) -> asyncio.subprocess.Process:
        async with self._start:
            if self._process is not None and _has_gone(self._process):
                await self.close()
            if self._process is None:
                self._process = await self._start_child()
                self._reading = asyncio.create_task(self._read(self._process))
            return self._process

    async def _start_child(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        command = (sys.executable, "-m", "workers.grammar_child")
        environ = {**variables(), **_ALONE}
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, env=environ
        )
        assert process.stdin is not None
        process.stdin.write(frame(self._order))
        try:
            async with asyncio.timeout(LOAD_S):
                await _next(process)
        except BaseException:
            await _end(process)
            raise
        return process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                verdict = await _next(process)
                answer = self._answers.get(verdict.id)
                if answer is not None and not answer.done():
                    answer.set_result(verdict)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionResetError("the trial of grammars ended"))

    async def close(self) -> None:
        """End the child, if there is one."""
        process, self._process = self._process, None
        reading, self._reading = self._reading, None
        if process is not None:
            await _end(process)
        if reading is not None:
            await reading


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _has_gone(process: asyncio.subprocess.Process) -> bool:
    """True if nobody reads trials any more: to write then raises on some event loops."""
    assert process.stdin is not None
    return process.stdin.is_closing()


async def _next(process: asyncio.subprocess.Process) -> Verdict:
    """The child's next word; the first says that it has loaded."""
    assert process.stdout is not None
    size = int.from_bytes(await process.stdout.readexactly(HEADER_BYTES), "big")
    return decode_verdict(await process.stdout.readexactly(size))


def _refusal(what: str, param: str | None) -> InvalidInput:
    return InvalidInput(f"This cannot be followed as a grammar. {what}", param)

"""The engine in a process of its own, as the worker's event loop sees it. Knows no torch, no Redis.

Its death is seen at once; it is started again, and what ran in it is the caller's to give back.
"""

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Awaitable, Callable

import msgspec

from engine.config import EngineConfig
from engine.errors import LoadError
from engine.messages import EngineInfo, EngineStats, SequenceOutput, SequenceRequest
from engine.weights.files import ModelFiles
from workers.engine_frames import (
    HEADER_BYTES,
    Add,
    Cancel,
    Command,
    Exhausted,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Report,
    Requantize,
    Requantized,
    decode_report,
    frame,
)

logger = logging.getLogger(__name__)

BUFFER_BYTES = 1 << 18  # read ahead while the gate is shut
CLOSE_S = 1.0
MAX_FAILED_LOADS = 3
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 30.0
STABLE_S = 60.0  # an engine that ran this long is restarted without a pause
MODULE = "workers.engine_child"


class EngineDied(Exception):
    """The engine process ended. The message says how, its own words are on stderr."""


class EngineExhausted(EngineDied):
    """Its device had not the memory for any step. The message says what to do about it."""


class OtherWeights(EngineDied):
    """The engine came back with another model: all that is known of it has to be read anew."""


class EngineProcess:
    """Starts an engine, passes commands in and outputs out, and starts it again when it dies.

    `on_outputs` gets every step's outputs; `on_death` is told that nothing that runs will go on,
    `on_exhausted` the same where the device's memory was short, which is nobody's fault. `gate` is
    awaited before a step is read, so an engine waits for a reader that cannot keep up. `on_stats`
    gets the gauges after every step, behind `on_outputs`. `num_reports` counts the steps that were
    read; it says something of the engine only while `is_heard`.
    """

    def __init__(
        self,
        factory: str,
        files: ModelFiles,
        config: EngineConfig,
        *,
        on_outputs: Callable[[list[SequenceOutput]], None],
        on_death: Callable[[], None] = lambda: None,
        on_exhausted: Callable[[], None] = lambda: None,
        on_stats: Callable[[EngineStats], None] = lambda stats: None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        gate: Callable[[], Awaitable[None]] | None = None,
        log_level: str = "info",
    ) -> None:
        self.info: EngineInfo | None = None
        self.stats = EngineStats()
        self._is_up = asyncio.Event()
        self.num_reports = 0
        self.is_heard = False
        self._order = Load(factory, files, config)
        self._on_outputs = on_outputs
        self._on_death = on_death
        self._on_exhausted = on_exhausted
        self._on_stats = on_stats
        self._on_progress = on_progress
        self._gate = gate
        self._log_level = log_level
        self._commands: list[Command] = []
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._loaded_at_s = 0.0
        self._change: asyncio.Future[None] | None = None

    @property
    def is_ready(self) -> bool:
        """True while it takes sequences."""
        return self._is_up.is_set()

    async def ready(self) -> None:
        """Wait until it takes sequences."""
        await self._is_up.wait()

    @property
    def pid(self) -> int | None:
        """The engine's process id, None before the first start."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> EngineInfo:
        """Start the process and load the model. Raises LoadError, or EngineDied if it crashed."""
        await self._spawn()
        try:
            while True:
                report = await self._read()
                if isinstance(report, Loaded):
                    return self._note_loaded(report)
                if isinstance(report, LoadFailed):
                    raise LoadError(report.message)
                if isinstance(report, Loading):
                    self._on_progress(report.done, report.total)
        except BaseException:
            await self.close()
            raise

    def _note_loaded(self, report: Loaded) -> EngineInfo:
        self.info = report.info
        self.stats = EngineStats()
        self._is_up.set()
        self._loaded_at_s = time.monotonic()
        return report.info

    def add(self, request: SequenceRequest) -> None:
        """Run a sequence; `on_outputs` gets its tokens. Raises EngineDied between two engines."""
        if not self.is_ready:
            raise EngineDied("the engine is starting")
        self._send(Add(request))

    def cancel(self, sequence_id: str) -> None:
        """Forget a sequence before the next step."""
        if self.is_ready:
            self._send(Cancel(sequence_id))

    async def requantize(self, isq: str) -> None:
        """Have the engine load its weights in another type while it goes on, and take them.

        Raises LoadError if it cannot, and EngineDied; it has the old weights then.
        """
        if not self.is_ready:
            raise EngineDied("The engine is starting")
        change = self._change = asyncio.get_running_loop().create_future()
        self._send(Requantize(isq))
        await change

    def restart_with(self, isq: str) -> None:
        """Start it again with its weights in another type; to what runs in it, that is a death."""
        self.set_isq(isq)
        self.kill()

    def set_isq(self, isq: str) -> None:
        """Have the next start load the weights in another type."""
        config = msgspec.structs.replace(self._order.config, isq=isq)
        self._order = msgspec.structs.replace(self._order, config=config)

    def _note_change(self, report: Requantized) -> None:
        """How a change ended; nobody may wait for it any more."""
        if not report.error:
            self.set_isq(report.isq)
            if self.info is not None:
                self.info = msgspec.structs.replace(self.info, isq=report.isq)
        error = LoadError(report.error) if report.error else None
        self._end_change(error)

    def _end_change(self, error: Exception | None) -> None:
        change, self._change = self._change, None
        if change is None or change.done():
            return
        if error is None:
            change.set_result(None)
        else:
            change.set_exception(error)

    def _send(self, command: Command) -> None:
        if not self._commands:  # all that this turn of the loop brings leaves in one frame
            asyncio.get_running_loop().call_soon(self._send_commands)
        self._commands.append(command)

    def _send_commands(self) -> None:
        commands, self._commands = self._commands, []
        if self.is_ready:
            self._writer.write(frame(commands))

    async def run(self) -> None:
        """Read steps until cancelled; restart the engine when it dies.

        Raises LoadError when the model can no longer be loaded or has no memory for any step,
        EngineDied when loading crashes, OtherWeights when its files were replaced.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            on_end = self._on_death
            try:
                await self._read_steps()
            except EngineExhausted as error:
                on_end = self._on_exhausted
                self._ask_less(error)
            except EngineDied as error:
                logger.error("%s; starting it again", error)
            self._is_up.clear()
            self.is_heard = False
            self._end_change(EngineDied("The engine died while it loaded the new weights"))
            on_end()
            await self.close()
            if time.monotonic() - self._loaded_at_s > STABLE_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
            await self._restart()

    def _ask_less(self, error: EngineExhausted) -> None:
        """Have the next start do with smaller steps. Raises LoadError when they are the smallest.

        So a job that fits on no device is not started on all of them for ever.
        """
        config = self._order.config
        if config.max_num_batched_tokens <= config.max_seqs:
            self._is_up.clear()
            raise LoadError(str(error)) from error
        num_tokens = max(config.max_num_batched_tokens // 2, config.max_seqs)
        config = msgspec.structs.replace(config, max_num_batched_tokens=num_tokens)
        self._order = msgspec.structs.replace(self._order, config=config)
        logger.error("%s Starting the engine again, with steps of %d tokens.", error, num_tokens)

    async def _restart(self) -> None:
        pause_s = FIRST_PAUSE_S
        for remaining in reversed(range(MAX_FAILED_LOADS)):
            try:
                await self._start_again()
                return
            except OtherWeights:
                raise
            except EngineDied as error:
                if remaining == 0:
                    raise EngineDied(f"The engine cannot be loaded again: {error}.") from error
                logger.error("%s while loading; trying again", error)
            await asyncio.sleep(pause_s)
            pause_s *= 2

    async def _start_again(self) -> None:
        before, now = self.info, await self.start()
        if before is not None and now.fingerprint != before.fingerprint:
            await self.close()
            raise OtherWeights("The model's files hold other weights than at the start.")

    async def _read_steps(self) -> None:
        while True:
            if self._gate is not None:
                await self._gate()
            self.is_heard = True
            report = await self._read()
            self.is_heard = False
            if isinstance(report, Requantized):
                self._note_change(report)
                continue
            if isinstance(report, Exhausted):
                raise EngineExhausted(report.message)
            assert not isinstance(report, Loading | Loaded | LoadFailed)
            self.num_reports += 1
            self.stats = report.stats
            if report.outputs:
                self._on_outputs(report.outputs)
            self._on_stats(report.stats)
            if report.outputs:
                await asyncio.sleep(0)  # steps that wait in the buffer must not hold up the loop

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                MODULE,
                str(theirs.fileno()),
                self._log_level,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
            )
        self._reader, self._writer = await asyncio.open_connection(sock=ours, limit=BUFFER_BYTES)
        self._writer.write(frame(self._order))

    async def _read(self) -> Report:
        try:
            header = await self._reader.readexactly(HEADER_BYTES)
            return decode_report(await self._reader.readexactly(int.from_bytes(header, "big")))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EngineDied(await self._cause()) from error

    async def _cause(self) -> str:
        assert self._process is not None
        code = await self._exit_code()
        if code is None:
            return "The engine process closed its socket and does not end"
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return f"The engine process ended {how}"

    async def _exit_code(self) -> int | None:
        """None if it has not ended within CLOSE_S."""
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                return await self._process.wait()
        return None

    def kill(self) -> None:
        """End a process that hangs; `run` goes on as after any other death of it, and at once.

        A device can keep a killed process from ending, so the socket is given up as well.
        """
        self._is_up.clear()
        self._kill()
        self._writer.transport.abort()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def close(self) -> None:
        """End the process: it leaves when it sees the closed socket, else it is killed."""
        self._is_up.clear()
        if self._process is None:
            return
        self._writer.close()
        if await self._exit_code() is None:
            self._kill()
            if await self._exit_code() is None:
                logger.error("engine process %d is killed and does not end", self._process.pid)

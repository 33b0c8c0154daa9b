"""The engine process: loads an engine, drains commands, steps, sends outputs. Knows no Redis.

It blocks on its socket when there is nothing to run, and ends when the worker does.
An error out of a step ends it too, with its traceback: a device that failed is not to be trusted.
So does one that has no memory for any step, but in words: what runs is not to blame.
"""

import importlib
import logging
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

from engine.errors import EngineError, LoadError, OutOfMemory
from engine.messages import EngineLike, SequenceOutput, SequenceRequest
from workers.engine_frames import (
    Add,
    Cancel,
    Exhausted,
    FrameBuffer,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Report,
    Requantize,
    Requantized,
    Stepped,
    decode_commands,
    decode_load,
    frame,
)
from workers.logs import configure

READ_BYTES = 1 << 20
PROGRESS_S = 0.1
LOOK_S = 0.02  # between two looks at weights that are being loaded, where no step runs


class WorkerGone(Exception):
    """The worker closed its end."""


class Channel:
    """The socket to the worker."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = FrameBuffer()

    def send(self, report: Report) -> None:
        """Blocks while the worker reads no more: it has enough unsent tokens. Raises WorkerGone."""
        try:
            self._connection.sendall(frame(report))
        except OSError as error:
            raise WorkerGone from error

    def receive(self, wait_s: float | None) -> list[bytes]:
        """The frames that have come; waits for one for `wait_s`, or as long as it takes.

        Raises WorkerGone.
        """
        bodies: list[bytes] = []
        if wait_s:
            select.select([self._connection], [], [], wait_s)
        while True:
            flags = 0 if wait_s is None and not bodies else socket.MSG_DONTWAIT
            try:
                data = self._connection.recv(READ_BYTES, flags)
            except BlockingIOError:
                return bodies
            except OSError as error:
                raise WorkerGone from error
            if not data:
                raise WorkerGone
            bodies += self._buffer.feed(data)


def load(order: Load, channel: Channel) -> EngineLike:
    """Call the factory that `order` names. Raises LoadError."""
    module, _, function = order.factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise LoadError(
            f"The engine {order.factory} cannot be imported: {error}. Check TRAMONTANE_ENGINE."
        ) from error
    engine: EngineLike = factory(order.files, order.config, _progress(channel))
    return engine


def _progress(channel: Channel) -> Callable[[int, int], None]:
    last_s = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if done >= total or now_s - last_s >= PROGRESS_S:
            last_s = now_s
            channel.send(Loading(done, total))

    return report


def serve(engine: EngineLike, channel: Channel) -> None:
    """Step while there is work, else wait for a command. Raises WorkerGone."""
    while True:
        refused: list[SequenceOutput] = []
        bodies = channel.receive(_wait_s(engine))
        for body in bodies:
            for command in decode_commands(body):
                if isinstance(command, Requantize):
                    _requantize(engine, command.isq, channel)
                else:
                    refused += _obey(engine, command)
        if bodies or engine.has_work():
            outputs = engine.step() if engine.has_work() else []
            channel.send(Stepped(refused + outputs, engine.stats()))
        if engine.is_requantizing and (error := engine.take_weights()) is not None:
            channel.send(Requantized(engine.info.isq, error))


def _wait_s(engine: EngineLike) -> float | None:
    if engine.has_work():
        return 0.0
    return LOOK_S if engine.is_requantizing else None


def _requantize(engine: EngineLike, isq: str, channel: Channel) -> None:
    try:
        engine.requantize(isq)
    except LoadError as error:
        channel.send(Requantized(engine.info.isq, str(error)))


def _obey(engine: EngineLike, command: Add | Cancel) -> list[SequenceOutput]:
    if isinstance(command, Add):
        return _add(engine, command.request)
    engine.cancel(command.id)
    return []


def _add(engine: EngineLike, request: SequenceRequest) -> list[SequenceOutput]:
    try:
        engine.add(request)
    except EngineError as error:
        return [SequenceOutput(id=request.id, error=(error.code, str(error)))]
    return []


def run(channel: Channel) -> None:
    """Load what the first frame names and serve it until the worker is gone."""
    bodies = channel.receive(None)
    while not bodies:
        bodies = channel.receive(None)
    try:
        engine = load(decode_load(bodies[0]), channel)
    except LoadError as error:
        channel.send(LoadFailed(str(error)))
        return
    channel.send(Loaded(engine.info))
    logging.getLogger(__name__).debug("engine ready: %s", engine.info)
    try:
        serve(engine, channel)
    except OutOfMemory as error:
        channel.send(Exhausted(str(error)))


def main(arguments: list[str]) -> int:
    """Arguments: the socket's descriptor, the log level."""
    # A terminal and a container signal every process; the worker decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure(arguments[1])
    try:
        run(Channel(socket.socket(fileno=int(arguments[0]))))
    except WorkerGone:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

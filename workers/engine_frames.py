"""What the worker and its engine process say to each other: MessagePack with a length before it.

Knows bytes and plain data; neither the sockets' owners nor what an engine does with a command.
"""

import msgspec

from engine.config import EngineConfig
from engine.messages import EngineInfo, EngineStats, SequenceOutput, SequenceRequest
from engine.paths import decode_path, encode_path
from engine.weights.files import ModelFiles

HEADER_BYTES = 4


class Load(msgspec.Struct, frozen=True, tag="load"):
    """First frame to the engine process: what to load, with which factory (`module:function`)."""

    factory: str
    files: ModelFiles
    config: EngineConfig


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Run a sequence."""

    request: SequenceRequest


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Forget a sequence."""

    id: str


class Requantize(msgspec.Struct, frozen=True, tag="requantize"):
    """Load the weights in another type, beside the steps, and put them in the place of the old."""

    isq: str


class Loading(msgspec.Struct, frozen=True, tag="loading"):
    """Progress of the load, in whatever unit the factory counts."""

    done: int
    total: int


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The engine takes sequences."""

    info: EngineInfo


class LoadFailed(msgspec.Struct, frozen=True, tag="failed"):
    """The model cannot be served; no restart would help."""

    message: str


class Stepped(msgspec.Struct, frozen=True, tag="step"):
    """One step's outputs and the gauges after it."""

    outputs: list[SequenceOutput]
    stats: EngineStats


class Exhausted(msgspec.Struct, frozen=True, tag="exhausted"):
    """Last frame of an engine whose device has not the memory for any step: no job's fault."""

    message: str


class Requantized(msgspec.Struct, frozen=True, tag="requantized"):
    """The new weights are in place, before the next step; or an error, and the old ones stay."""

    isq: str
    error: str = ""


Command = Add | Cancel | Requantize
Report = Loading | Loaded | LoadFailed | Stepped | Exhausted | Requantized

_encoder = msgspec.msgpack.Encoder(enc_hook=encode_path)
_load_decoder = msgspec.msgpack.Decoder(Load, dec_hook=decode_path)
_commands_decoder = msgspec.msgpack.Decoder(list[Command])
_report_decoder: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)

decode_load = _load_decoder.decode
decode_commands = _commands_decoder.decode
decode_report = _report_decoder.decode


def frame(message: Load | list[Command] | Report) -> bytes:
    """`message` with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class FrameBuffer:
    """Cuts a byte stream into the bodies of its frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes."""
        self._data += data
        bodies, at = [], 0
        while len(self._data) - at >= HEADER_BYTES:
            start = at + HEADER_BYTES
            end = start + int.from_bytes(self._data[at:start], "big")
            if len(self._data) < end:
                break
            bodies.append(bytes(self._data[start:end]))
            at = end
        del self._data[:at]
        return bodies

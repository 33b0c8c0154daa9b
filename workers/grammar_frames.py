"""What a worker and its trial of grammars say to each other: MessagePack in frames.

Knows no grammar.
"""

import msgspec

from engine.paths import encode_path
from engine.weights.files import ModelFiles
from workers.engine_frames import HEADER_BYTES

MAX_BYTES = 262_144  # of a grammar
LOADED = -1  # the id of the child's first verdict: it takes trials now


class Order(msgspec.Struct, frozen=True):
    """First frame: whose vocabulary."""

    files: ModelFiles
    vocab_size: int
    eos_ids: tuple[int, ...]


class Trial(msgspec.Struct, frozen=True):
    """A grammar to try."""

    id: int
    grammar: str


class Verdict(msgspec.Struct, frozen=True):
    """What is wrong with it, if anything; and what an engine takes in its place, if not it."""

    id: int
    problem: str
    converted: str = ""


_encoder = msgspec.msgpack.Encoder(enc_hook=encode_path)
decode_order = msgspec.msgpack.Decoder(Order, dec_hook=lambda kind, value: kind(value)).decode
decode_trial = msgspec.msgpack.Decoder(Trial).decode
decode_verdict = msgspec.msgpack.Decoder(Verdict).decode


def frame(message: Order | Trial | Verdict) -> bytes:
    """`message` with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body

"""What a worker and its trial of grammars say to each other: MessagePack in frames.

Knows no grammar.
"""

import msgspec

from engine.paths import encode_path
from engine.weights.files import ModelFiles
from workers.engine_frames import HEADER_BYTES


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
    """What is wrong with it, if anything."""

    id: int
    problem: str


_encoder = msgspec.msgpack.Encoder(enc_hook=encode_path)
decode_order = msgspec.msgpack.Decoder(Order, dec_hook=lambda kind, value: kind(value)).decode
decode_trial = msgspec.msgpack.Decoder(Trial).decode
decode_verdict = msgspec.msgpack.Decoder(Verdict).decode


def frame(message: Order | Trial | Verdict) -> bytes:
    """`message` with its length before it."""
    body = _encoder.encode(message)
    return len(body).to_bytes(HEADER_BYTES, "big") + body

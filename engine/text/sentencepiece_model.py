"""Reads a SentencePiece `tokenizer.model`, a protocol buffer. Knows no algorithm.

Field numbers: sentencepiece_model.proto of the SentencePiece project; wire format: the Protocol
Buffers encoding guide.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.errors import LoadError
from engine.text.token_type import TokenType

_Value = int | bytes  # a varint, or a field of known length


class Algorithm(IntEnum):
    """`TrainerSpec.model_type`."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


class ScoredPiece(NamedTuple):
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    type: int


class SentencePieceModel(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says. `named_ids` maps `bos_token`, … to ids, as far as there are any."""

    pieces: list[ScoredPiece]
    algorithm: Algorithm
    named_ids: dict[str, int]
    adds_first_space: bool
    joins_spaces: bool
    space_is_suffix: bool
    charsmap: bytes


def read_sentencepiece_model(path: Path) -> SentencePieceModel:
    """Read a `tokenizer.model`. Raises LoadError for one that is damaged."""
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise LoadError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, IndexError, struct.error) as error:
        raise LoadError(
            f"{path} is no SentencePiece model, or damaged ({error}); download it again."
        ) from error


def _parse(data: bytes) -> SentencePieceModel:
    fields = list(_fields(data))
    pieces = [_piece(value) for number, value in fields if number == 1]
    trainer = _message(fields, 2)
    normalizer = _message(fields, 3)
    if not pieces:
        raise ValueError("it has no pieces")
    return SentencePieceModel(
        pieces=pieces,
        algorithm=Algorithm(_int(trainer, 3, Algorithm.UNIGRAM)),
        named_ids=_named_ids(trainer, len(pieces)),
        adds_first_space=bool(_int(normalizer, 3, 1)),
        joins_spaces=bool(_int(normalizer, 4, 1)),
        space_is_suffix=bool(_int(trainer, 24, 0)),
        charsmap=_bytes(normalizer, 2),
    )


def _named_ids(trainer: dict[int, _Value], num_pieces: int) -> dict[str, int]:
    """-1 is none; unset is the proto's default."""
    defaults = {"unk_token": (40, 0), "bos_token": (41, 1), "eos_token": (42, 2)}
    ids = {name: _int(trainer, *place) for name, place in defaults.items()}
    ids["pad_token"] = _int(trainer, 43, -1)
    return {name: id_ for name, id_ in ids.items() if 0 <= id_ < num_pieces}


def _piece(value: _Value) -> ScoredPiece:
    fields = dict(_fields(_as_bytes(value)))
    score = fields.get(2, bytes(4))
    return ScoredPiece(
        text=_bytes(fields, 1).decode(),
        score=struct.unpack("<f", _as_bytes(score))[0],
        type=_int(fields, 3, TokenType.NORMAL),
    )


def _message(fields: list[tuple[int, _Value]], number: int) -> dict[int, _Value]:
    """A message's fields, the last one of each number."""
    merged = b"".join(_as_bytes(value) for found, value in fields if found == number)
    return dict(_fields(merged))


def _int(fields: dict[int, _Value], number: int, default: int) -> int:
    value = fields.get(number, default)
    if isinstance(value, bytes):
        raise ValueError(f"field {number} is no number")
    return value


def _bytes(fields: dict[int, _Value], number: int) -> bytes:
    return _as_bytes(fields.get(number, b""))


def _as_bytes(value: _Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a text is expected")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, _Value]]:
    """Field numbers and values. Numbers are signed; fixed-width ones stay as bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(data, position)
            yield tag >> 3, value - (1 << 64) if value >> 63 else value
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {position}")
        if position + length > len(data):
            raise ValueError("it is cut short")
        yield tag >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number does not end")

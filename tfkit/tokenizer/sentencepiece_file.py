"""A reader of SentencePiece's model files: their pieces, and the table of their normalizer.

A model file is a message of protocol buffers (google/sentencepiece, sentencepiece_model.proto). This module reads the few fields that tfkit
needs, without the libraries protobuf and sentencepiece.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tfkit.errors import ModelError
from tfkit.run.model_files import MIB

_LIMIT = 64 * MIB
_UNIGRAM, _NORMAL, CONTROL, USER_DEFINED = 1, 1, 3, 4  # UNIGRAM of TrainerSpec.ModelType; three values of SentencePiece.Type


class Piece(NamedTuple):
    """An entry of the vocabulary. `kind`: a value of SentencePiece.Type, such as CONTROL."""

    text: str
    score: float
    kind: int


class PieceModel(NamedTuple):
    """A unigram model. `unknown`: the id of the unknown piece; `replacements`: the compiled table of the normalizer, or empty."""

    pieces: tuple[Piece, ...]
    unknown: int
    replacements: bytes


def read_model(path: Path) -> PieceModel:
    """Read a model file. Raises ModelError if it is damaged, larger than 64 MiB, or holds no unigram model."""
    if path.stat().st_size > _LIMIT:
        raise ModelError(f"{path}: over {_LIMIT // MIB} MiB, so it is no vocabulary; copy the model's own file again")
    try:
        pieces, trainer, normalizer = [], {}, {}
        for number, value in _fields(path.read_bytes()):  # 1: pieces, 2: trainer_spec, 3: normalizer_spec
            if number == 1:
                pieces.append(_piece(dict(_fields(_bytes(value)))))
            elif number == 2:
                trainer = dict(_fields(_bytes(value)))
            elif number == 3:
                normalizer = dict(_fields(_bytes(value)))
        kind, unknown, replacements = trainer.get(3, _UNIGRAM), trainer.get(40, 0), _bytes(normalizer.get(2, b""))
    except (ValueError, IndexError, struct.error):
        raise ModelError(f"{path}: is not a readable SentencePiece model; copy the model's own file again") from None
    if kind != _UNIGRAM or not pieces or not isinstance(unknown, int) or unknown >= len(pieces):
        raise ModelError(f"{path}: is not a unigram model of SentencePiece; use a folder that has a tokenizer.json")
    return PieceModel(tuple(pieces), unknown, replacements)


def _piece(fields: dict[int, int | bytes]) -> Piece:
    score, kind = fields.get(2, b"\0\0\0\0"), fields.get(3, _NORMAL)
    return Piece(_bytes(fields.get(1, b"")).decode(), struct.unpack("<f", _bytes(score))[0], kind if isinstance(kind, int) else _NORMAL)


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field of a message. A value is an integer (varint) or bytes (any other type)."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        match key & 7:
            case 0:
                value, place = _varint(data, place)
                yield key >> 3, value
                continue
            case 1:
                length = 8
            case 2:
                length, place = _varint(data, place)
            case 5:
                length = 4
            case _:
                raise ValueError("a field of no known type")
        if place + length > len(data):
            raise ValueError("a field ends after its message")
        yield key >> 3, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the integer (7 bits per byte) that begins at the index `place` of `data`, and the index after its last byte."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        value, place = value | (byte & 127) << shift, place + 1
        if byte < 128:
            return value, place
    raise ValueError("an integer of over 64 bits")

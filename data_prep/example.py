"""Reads `tf.train.Example` messages: protobuf's wire format, as far as these messages use it.

    message Example   { Features features = 1; }
    message Features  { map<string, Feature> feature = 1; }
    message Feature   { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
    message *List     { repeated <bytes, float, int64> value = 1; }

Numbers may be packed (one field holds them all) or not. A map entry is a message with the key as field 1 and the value
as field 2. Unknown fields are skipped; whatever else does not fit is a ValueError. Every loop moves on by at least a
byte, and nothing is allocated that the record does not hold.
"""

from collections.abc import Container, Iterator

import numpy as np
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
KINDS = {1: "bytes", 2: "float", 3: "int64"}
MAX_VARINT_BYTES = 10


class Example:
    """A record, taken apart as far as its keys; values are decoded when they are asked for.

    `spans[key]` lists kind (`bytes`, `float` or `int64`), start and stop of the parts of its list.

    Raises:
        ValueError: the record is no Example.
    """

    def __init__(self, record: bytes):
        self.record = record
        self.spans: dict[str, list[tuple[str, int, int]]] = {}
        for _, start, stop in _messages(record, 0, len(record), (1,)):
            for _, first, last in _messages(record, start, stop, (1,)):
                self._enter(first, last)

    def _enter(self, start: int, stop: int) -> None:
        """Note a map entry; of two with one key the later counts, as everywhere in protobuf."""
        key, spans = None, list[tuple[str, int, int]]()
        for number, first, last in _messages(self.record, start, stop, (1, 2)):
            if number == 1:
                key = self.record[first:last].decode()
            else:
                spans += [(KINDS[kind], a, b) for kind, a, b in _messages(self.record, first, last, KINDS)]
        if key is None:
            raise ValueError("a feature has no name")
        self.spans[key] = spans

    def _spans(self, key: str, kind: str) -> list[tuple[str, int, int]]:
        spans = self.spans.get(key)
        if not spans:
            raise ValueError(f"it lacks the feature {key}")
        if spans[-1][0] != kind:
            raise ValueError(f"{key} holds {spans[-1][0]} values, not {kind}")
        return [span for span in spans if span[0] == kind]

    def strings(self, key: str) -> list[bytes]:
        """The values of a `bytes_list`, in order."""
        values = []
        for _, start, stop in self._spans(key, "bytes"):
            values += [self.record[first:last] for _, first, last in _messages(self.record, start, stop, (1,))]
        return values

    def floats(self, key: str) -> NDArray[np.float32]:
        """The values of a `float_list`; read-only."""
        parts = list(self._numbers(key, "float", FIXED32))
        if any(len(part) % 4 for part in parts):
            raise ValueError(f"{key}: a float is cut off")
        return np.frombuffer(b"".join(parts), "<f4")

    def integers(self, key: str) -> NDArray[np.int64]:
        """The values of an `int64_list`."""
        parts = list(self._numbers(key, "int64", VARINT))
        if any(part and part[-1] >= 0x80 for part in parts):
            raise ValueError(f"{key}: an integer is cut off")
        return varints(np.frombuffer(b"".join(parts), np.uint8))

    def _numbers(self, key: str, kind: str, single: int) -> Iterator[bytes]:
        """The numbers of a list as they are encoded: packed together, or each in a field of wire type `single`."""
        for _, start, stop in self._spans(key, kind):
            for number, wire, first, last in _fields(self.record, start, stop):
                if number == 1:
                    if wire not in (BYTES, single):
                        raise ValueError(f"{key} has values of wire type {wire}")
                    yield self.record[first:last]


def varints(packed: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Decode varints that lie one behind the other, the last complete; uint8 [bytes] to int64 [values].

    Raises:
        ValueError: one has more than ten bytes.
    """
    ends = np.flatnonzero(packed < 0x80)
    if len(ends) == len(packed):  # one byte each, as flags and small numbers are
        return packed.astype(np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    longest = int((ends - starts).max()) + 1
    if longest > MAX_VARINT_BYTES:
        raise ValueError("a varint is too long")
    values = np.zeros(len(ends), np.uint64)
    for i in range(longest):
        reaches = starts + i <= ends
        digits = (packed[starts[reaches] + i] & 0x7F).astype(np.uint64)
        values[reaches] |= digits << np.uint64(7 * i)
    return values.view(np.int64)


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """An unsigned varint, and where it ends."""
    value = 0
    for i in range(at, min(end, at + MAX_VARINT_BYTES)):
        value |= (data[i] & 0x7F) << 7 * (i - at)
        if data[i] < 0x80:
            return value, i + 1
    raise ValueError("a varint is cut off or too long")


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: number, wire type, and where its content starts and stops."""
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        start = at
        if wire == BYTES:
            size, start = _varint(data, at, end)
            at = start + size
        elif wire == VARINT:
            _, at = _varint(data, at, end)
        elif wire in (FIXED32, FIXED64):
            at += 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} is not used in an Example")
        if at > end or not number:
            raise ValueError("a field reaches beyond its message")
        yield number, wire, start, at


def _messages(data: bytes, at: int, end: int, wanted: Container[int]) -> Iterator[tuple[int, int, int]]:
    """Messages (or strings) in fields of these numbers: the number, and where it starts and stops."""
    for number, wire, start, stop in _fields(data, at, end):
        if number in wanted:
            if wire != BYTES:
                raise ValueError(f"field {number} has wire type {wire}")
            yield number, start, stop

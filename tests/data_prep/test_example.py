"""Examples are parsed as protobuf parses them, whatever their bytes."""

import struct
import time
import tracemalloc

import numpy as np
import pytest
import tfds_oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from whale.data_prep.example import Example, varints

INT64 = st.integers(-(2**63), 2**63 - 1)
VALUES = {
    "bytes_list": st.lists(st.binary(max_size=300), max_size=5),
    "float_list": st.lists(st.floats(width=32, allow_nan=False), max_size=9),
    "int64_list": st.lists(INT64 | st.integers(0, 100), max_size=9),
}
NUMBERS = {"bytes_list": 1, "float_list": 2, "int64_list": 3}
READERS = {"bytes_list": Example.strings, "float_list": Example.floats, "int64_list": Example.integers}


def varint(value):
    value &= 2**64 - 1
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])


def field(number, content):
    """A field of any wire type: bytes, a float, or an integer."""
    if isinstance(content, bytes):
        return varint(number << 3 | 2) + varint(len(content)) + content
    if isinstance(content, float):
        return varint(number << 3 | 5) + struct.pack("<f", content)
    return varint(number << 3) + varint(content)


def packed(values):
    return b"".join(struct.pack("<f", one) if isinstance(one, float) else varint(one) for one in values)


unknown = st.builds(field, st.integers(5, 2000), st.binary(max_size=20) | st.integers(0, 2**63) | st.just(1.5))


@st.composite
def feature_bytes(draw, kind, values):
    """A Feature: numbers packed, single or both, unknown fields between, the list in one part or in two."""
    parts = []
    at = 0
    while at < len(values):
        count = draw(st.integers(1, len(values) - at))
        some, at = values[at : at + count], at + count
        if kind != "bytes_list" and draw(st.booleans()):
            parts.append(field(1, packed(some)))
        else:
            parts += [field(1, one) for one in some]
        parts += draw(st.lists(unknown, max_size=1))
    split = draw(st.integers(0, len(parts)))
    lists = [b"".join(parts[:split]), b"".join(parts[split:])]
    if not draw(st.booleans()):
        lists = [b"".join(lists)]
    return b"".join(field(NUMBERS[kind], one) + b"".join(draw(st.lists(unknown, max_size=1))) for one in lists)


@st.composite
def records(draw):
    """An Example as some writer may put it, with its values."""
    kinds = draw(st.dictionaries(st.text(max_size=8), st.sampled_from(sorted(VALUES)), max_size=5))
    wanted, entries = {}, []
    for key, kind in kinds.items():
        wanted[key] = kind, draw(VALUES[kind])
        pair = [field(1, key.encode()), field(2, draw(feature_bytes(*wanted[key])))]
        entries.append(field(1, b"".join(draw(st.permutations(pair)) + draw(st.lists(unknown, max_size=1)))))
    split = draw(st.integers(0, len(entries)))
    return b"".join(field(1, b"".join(part)) for part in (entries[:split], entries[split:])), wanted


def listed(values):
    return values if isinstance(values, list) else values.tolist()


@settings(deadline=None)
@given(records())
def test_every_way_to_write_an_example_is_read(pair):
    record, wanted = pair
    example = Example(record)
    assert set(example.spans) == set(wanted)
    for key, (kind, values) in wanted.items():
        assert listed(READERS[kind](example, key)) == values


@settings(deadline=None)
@given(st.lists(INT64, min_size=1))
def test_varints(values):
    assert varints(np.frombuffer(packed(values), np.uint8)).tolist() == values


def mutated(record, random):
    """Flipped bits, and bytes that are cut out, doubled, or replaced by what claims to be long."""
    record = bytearray(record)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(len(record) + 1))
        to = at + int(random.integers(0, 12))
        change = random.integers(4)
        if change == 0 and at < len(record):
            record[at] ^= 1 << random.integers(8)
        elif change == 1:
            del record[at:to]
        elif change == 2:
            record[at:at] = record[at:to]
        else:
            record[at:to] = varint(int(random.integers(0, 2**62)) >> int(random.integers(62)))
    return bytes(record)


def base_record(random):
    strings = b"".join(field(1, random.bytes(random.integers(0, 40))) for _ in range(5))
    values = {
        b"steps/image": field(1, strings),
        b"steps/action": field(2, field(1, random.normal(size=14).astype("<f4").tobytes())),
        b"steps/count": field(3, field(1, packed(random.integers(-(2**62), 2**62, 6).tolist()))),
        b"single": field(3, b"".join(field(1, int(one)) for one in random.integers(0, 300, 6))),
    }
    return field(1, b"".join(field(1, field(1, key) + field(2, value)) for key, value in values.items()))


def test_mutated_examples_are_refused_or_read_as_protobuf_reads_them(oracle):
    random = np.random.default_rng(0)
    tried = [mutated(base_record(random), random) for _ in range(6000)]
    agreed = refused = 0
    for record, theirs in zip(tried, oracle(tfds_oracle.parse, tried), strict=True):
        try:
            example = Example(record)
        except ValueError:
            refused += 1
            continue
        assert theirs is None or set(theirs) <= set(example.spans)
        wanted = example.spans if theirs is None else theirs
        sound = 0
        for key in wanted:
            kind = example.spans[key][-1][0] if example.spans[key] else "bytes"
            try:
                ours = listed(READERS[f"{kind}_list"](example, key))
            except ValueError:
                refused += 1
                continue
            sound += 1
            if theirs:
                np.testing.assert_array_equal(ours, theirs[key][1])
                agreed += 1
        assert theirs is not None or sound < len(wanted), "protobuf refuses it"
    assert agreed > 1000 and refused > 1000


def test_hostile_examples_take_neither_time_nor_memory():
    random = np.random.default_rng(1)
    huge = [varint(2**63), varint(2**31), b"\xff" * 10 + b"\x01", b"\xff" * 40]
    tried = [b"\x0a" + one + bytes(50) for one in huge]
    tried += [field(1, field(1, field(1, b"x") + field(2, bytes([number << 3 | 2]) + one))) for one in huge
              for number in (1, 2, 3)]
    tried += [random.bytes(2000) for _ in range(300)] + [b"\x0a\x02" * 20_000, field(1, b"") * 50_000]
    tracemalloc.start()
    start = time.monotonic()
    for record in tried:
        try:
            example = Example(record)
            for key in example.spans:
                for read in READERS.values():
                    read(example, key)
        except ValueError:
            pass
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("record", [
    b"\x0a", b"\x0a\x05abc", b"\x0b", b"\x00", b"\x09abc", b"\x08", b"\x08\x01", b"\x0d1234",
])  # fmt: skip
def test_what_is_no_example(record):
    with pytest.raises(ValueError):
        Example(record)

"""TFRecord files: what is damaged is found wherever it is, and never ends anything but itself."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from whale.data_prep.source import Unreadable
from whale.data_prep.tfrecord import masked_crc32c, read_records
from whale.errors import UserError

SIZES = [0, 1, 40, 7, 300]


def framed(data):
    size = struct.pack("<Q", len(data))
    return size + struct.pack("<I", masked_crc32c(size)) + data + struct.pack("<I", masked_crc32c(data))


def written(path, sizes=SIZES, seed=0):
    """The records of a new file."""
    random = np.random.default_rng(seed)
    records = [random.bytes(size) for size in sizes]
    path.write_bytes(b"".join(framed(one) for one in records))
    return records


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.tfrecord"


def check(path, records, damaged_at):
    """What is read of a file damaged at this byte: every other record exactly, and all are accounted for."""
    found = list(read_records(str(path), len(records)))
    offsets = np.cumsum([0] + [16 + len(one) for one in records])
    hit = int(np.searchsorted(offsets, damaged_at, side="right")) - 1
    lost = [one for one in found if isinstance(one, Unreadable)]
    assert [(one.record, one.offset) for one in lost] == [(hit, offsets[hit])]
    kept = {one.number: one.data for one in found if not isinstance(one, Unreadable)}
    assert kept == {i: records[i] for i in range(len(records)) if not hit <= i < hit + lost[0].num_records}
    assert len(kept) + lost[0].num_records == len(records)
    return lost[0]


def test_records_and_where_they_start(path):
    records = written(path)
    found = list(read_records(str(path), len(records)))
    assert [one.data for one in found] == records
    assert [one.offset for one in found] == [0, 16, 33, 89, 112]


def test_every_flipped_bit_of_a_small_file_is_found(path):
    records = written(path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        lost = check(path, records, bit // 8)
        in_length = bit // 8 - lost.offset < 12
        assert lost.num_records == (len(records) - lost.record if in_length else 1)
        assert lost.reason.startswith("the length of a record is damaged" if in_length else "its checksum is wrong")


def test_flipped_bits_of_a_large_file_are_found(path):
    records = written(path, [200_000, 3000, 50, 100_000])
    size = path.stat().st_size
    random = np.random.default_rng(0)
    with path.open("r+b") as file:
        for bit in random.integers(0, 8 * size, 300).tolist():
            file.seek(bit // 8)
            right = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([right ^ 1 << bit % 8]))
            file.flush()
            check(path, records, bit // 8)
            file.seek(bit // 8)
            file.write(bytes([right]))


def test_ten_thousand_flipped_bits_are_found(path):
    records = written(path, [2000, 30, 500, 1000])
    whole = path.read_bytes()
    for bit in np.random.default_rng(1).integers(0, 8 * len(whole), 10_000).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        check(path, records, bit // 8)


def test_every_point_to_cut_a_file_off_is_found(path):
    records = written(path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        lost = check(path, records, size)
        assert lost.num_records == len(records) - lost.record
        assert f"after {lost.record} records, dataset_info.json says 5" in lost.reason


@pytest.mark.parametrize("more", [b"x", framed(b"one more"), bytes(100)])
def test_a_file_that_goes_on(path, more):
    records = written(path)
    path.write_bytes(path.read_bytes() + more)
    *found, last = read_records(str(path), len(records))
    assert [one.data for one in found] == records
    assert (last.record, last.num_records, last.offset) == (5, 0, 428)
    assert "goes on behind the 5 records" in last.reason


@pytest.mark.parametrize("claimed", [1 << 20, 1 << 31, 1 << 40, (1 << 64) - 1])
def test_a_length_that_is_claimed_is_not_believed(path, claimed):
    size = struct.pack("<Q", claimed)
    path.write_bytes(framed(b"first") + size + struct.pack("<I", masked_crc32c(size)) + bytes(1000))
    first, lost = read_records(str(path), 4)
    assert first.data == b"first"
    assert (lost.record, lost.offset, lost.num_records) == (1, 21, 3)


def test_memory_is_bounded_by_the_largest_record(tmp_path):
    script = (
        "import resource, sys\n"
        "from whale.data_prep.tfrecord import read_records\n"
        "next(read_records(sys.argv[1], 400))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    print(sum(len(record.data) for record in read_records(path, 400)), end=' ')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    record = framed(bytes(1_000_000))
    size = struct.pack("<Q", 1 << 30)
    lying = framed(b"") * 399 + size + struct.pack("<I", masked_crc32c(size))
    paths = [tmp_path / "large", tmp_path / "lying"]
    paths[0].write_bytes(record * 400)
    paths[1].write_bytes(lying)
    script = script.replace("len(record.data)", "len(getattr(record, 'data', b''))")
    answer = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, check=True)
    large, small, grown_kb = map(int, answer.stdout.split())
    assert (large, small) == (400_000_000, 0)
    assert grown_kb < 30_000


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="cannot be opened"):
        list(read_records(str(tmp_path / "none"), 1))


def test_the_checksum_is_that_of_the_format():
    assert masked_crc32c(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32


def test_a_file_that_tensorflow_wrote(bridge: Path):
    found = list(read_records(str(bridge / "bridge_dataset-train.tfrecord-00000-of-00001"), 25))
    assert not any(isinstance(one, Unreadable) for one in found)
    assert found[-1].offset + 16 + len(found[-1].data) == 3_475_142

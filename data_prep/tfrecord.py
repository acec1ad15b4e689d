"""Reads TFRecord files: records one behind the other, each with checksums.

    uint64 length | uint32 masked CRC32C of the length | data | uint32 masked CRC32C of the data      (little endian)

Whatever a file may hold, what is read and what is unreadable adds up to the records that it should hold. Memory is
bounded by the largest record that is really there.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from whale.data_prep.files import open_file
from whale.data_prep.source import Unreadable
from whale.errors import UserError

HEADER = struct.Struct("<QI")
FOOTER = struct.Struct("<I")
CHUNK_BYTES = 1 << 24
MAX_RECORD_BYTES = 1 << 31
"""No protobuf message is longer."""


class Record(NamedTuple):
    """One record, its checksum verified."""

    number: int
    """Counted from 0 in its file."""
    offset: int
    """Where its header starts, in bytes."""
    data: bytes


def masked_crc32c(data: bytes) -> int:
    """Checksum as TFRecord stores it: of what may hold checksums itself."""
    from google_crc32c import value

    crc = value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _read(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file; what it claims to hold is not believed."""
    parts = []
    while size > 0 and (part := file.read(min(size, CHUNK_BYTES))):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _record(file: BinaryIO, number: int, offset: int) -> tuple[Record | Unreadable | str, int]:
    """The next record, or one that is damaged itself, or why nothing can be read from here on; and where it ends."""
    header = _read(file, HEADER.size)
    if not header:
        return "the file ends", offset
    if len(header) < HEADER.size:
        return "the file is cut off", offset
    size, crc = HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc or size > MAX_RECORD_BYTES:
        return "the length of a record is damaged", offset
    data = _read(file, size)
    footer = _read(file, FOOTER.size)
    if len(footer) < FOOTER.size:
        return "the file is cut off", offset
    end = offset + HEADER.size + size + FOOTER.size
    if masked_crc32c(data) != FOOTER.unpack(footer)[0]:
        return Unreadable(number, offset, "its checksum is wrong"), end
    return Record(number, offset, data), end


def read_records(path: str, num_records: int) -> Iterator[Record | Unreadable]:
    """The records of a file in order.

    A damaged record is passed over. Where the next one cannot be found, a single `Unreadable` stands for all that are
    missing; it stands for none (`num_records` 0) when the file goes on behind the last.

    Raises:
        UserError: the file cannot be opened.
    """
    try:
        file = open_file(path)
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error}", "fetch this file again") from None
    with file:
        offset = 0
        for number in range(num_records):
            found, end = _record(file, number, offset)
            if isinstance(found, str):
                reason = f"{found} after {number} records, dataset_info.json says {num_records}"
                yield Unreadable(number, offset, reason, num_records - number)
                return
            yield found
            offset = end
        if _read(file, 1):
            reason = f"the file goes on behind the {num_records} records that dataset_info.json says"
            yield Unreadable(num_records, offset, reason, 0)

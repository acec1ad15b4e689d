"""The member index beside each shard (`<shard>.idx.npy`): where every clip and its arrays lie.

With it, what training needs of a clip is fetched by one `pread` and without parsing.
"""

import zlib
from pathlib import Path

import numpy as np

from whale.actions import ACTION_DIM
from whale.clips.clip import ActionType, Clip
from whale.clips.codec import BLOCK_BYTES, BODIES, entries, npy_layout
from whale.errors import UserError

INDEX_DTYPE = np.dtype([
    ("offset", "<u8"), ("length", "<u8"), ("key", "<u8"), ("head", "<u4"), ("num_frames", "<u4"),
    ("body_at", "<u4"), ("body_bytes", "<u4"), ("frame_tokens", "<u4"), ("proprio_dim", "<u4"),
    ("actions_at", "<u4"), ("flags_at", "<u4"), ("rewards_at", "<u4"), ("proprio_at", "<u4"),
    ("control_period_sec", "<f4"), ("action_type", "u1"), ("action_status", "u1", (ACTION_DIM,)),
    ("head_crc32", "<u4"), ("crc32", "<u4"),
])  # fmt: skip
"""One row a clip; FORMAT.md says what the columns mean."""

FACTS_BYTES = INDEX_DTYPE.fields["head_crc32"][1]  # type: ignore[index]
"""Bytes of a row before its checksums, which cover them too."""

_DESCRIPTION = repr(INDEX_DTYPE.descr)
HEADER_BYTES = -(-(len(_DESCRIPTION) + 80) // 64) * 64
"""Of the file, before its rows."""

REMEDY = "run `whale data_prep verify`, then the task that wrote the shard again"


def index_path(shard: Path) -> Path:
    """The index of the shard `<name>.tar` is `<name>.idx.npy`."""
    return shard.with_name(shard.name.removesuffix(".tar") + ".idx.npy")


def key_name(key: int) -> str:
    """A clip's key as it stands in the tar: eleven digits, five of the input shard and six of the clip in it."""
    return f"{key:011d}"


def make_row(offset: int, key: int, raw: bytes, clip: Clip) -> tuple:
    """The row of a clip whose entries `raw` lie at `offset` in their shard, in the order of INDEX_DTYPE.

    Raises:
        ValueError: `raw` are not entries of a clip with this key.
    """
    at = dict.fromkeys(("json", "actions.npy", "flags.npy", "rewards.npy", "proprio.npy"), 0)
    columns, head, body_at, body_bytes = {}, 0, 0, 0
    for entry in entries(raw):
        if entry.key != key_name(key):
            raise ValueError(f"it has the key {entry.key}, not {key_name(key)}")
        content = raw[entry.at : entry.at + entry.size]
        inner, shape, _ = npy_layout(content) if entry.extension.endswith(".npy") else (0, (), None)
        columns[entry.extension] = shape[1] if len(shape) == 2 else 0
        if entry.extension in BODIES:
            head, body_at, body_bytes = entry.at - BLOCK_BYTES, entry.at + inner, entry.size - inner
        else:
            at[entry.extension] = entry.at + inner
    info = clip.info
    row = np.zeros((), INDEX_DTYPE)
    row[()] = (
        offset, len(raw), key, head, clip.num_frames, body_at, body_bytes, columns.get("tokens.npy", 0),
        columns.get("proprio.npy", 0), *list(at.values())[1:],
        info.control_period_sec, list(ActionType).index(info.action_type), info.action_status, 0, 0,
    )  # fmt: skip
    head_crc32 = zlib.crc32(raw[:head], zlib.crc32(row.tobytes()[:FACTS_BYTES]))
    return (*row.item()[:-2], head_crc32, zlib.crc32(raw[head:], head_crc32))


def _header(num_rows: int) -> bytes:
    """The one header that an index of so many rows has: an `.npy` file of version 1.0."""
    text = f"{{'descr': {_DESCRIPTION}, 'fortran_order': False, 'shape': ({num_rows},), }}"
    text = text.ljust(HEADER_BYTES - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def index_bytes(rows: list[tuple]) -> bytes:
    """The content of an index file."""
    return _header(len(rows)) + np.array(rows, INDEX_DTYPE).tobytes()


def read_index(shard: Path) -> np.ndarray:
    """The index of a shard, with dtype INDEX_DTYPE.

    Its header is compared, not parsed: that is ten times as fast, and takes no other.

    Raises:
        UserError: the index is missing, or is not one.
    """
    path = index_path(shard)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the index {path} cannot be read: {error}", REMEDY) from None
    num_rows, rest = divmod(len(content) - HEADER_BYTES, INDEX_DTYPE.itemsize)
    if rest or num_rows < 1 or not content.startswith(_header(num_rows)):
        raise UserError(f"{path} is no clip index of this format version", REMEDY)
    return np.frombuffer(content, INDEX_DTYPE, offset=HEADER_BYTES)

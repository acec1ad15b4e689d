"""The member index beside each shard (`<shard>.idx.npy`): where every clip lies, so that one `pread` fetches it."""

import os
from pathlib import Path

import numpy as np

from whale.clips.codec import BLOCK_BYTES, END_OF_TAR, from_tar
from whale.errors import UserError

INDEX_DTYPE = np.dtype([("offset", "<u8"), ("length", "<u8"), ("num_frames", "<u4"), ("key", "<u8")])
"""One row a clip: byte offset and length of its consecutive tar entries, T, and the number that is its key."""


def index_path(shard: Path) -> Path:
    """The index of the shard `<name>.tar` is `<name>.idx.npy`."""
    return shard.with_name(shard.name.removesuffix(".tar") + ".idx.npy")


def key_name(key: int) -> str:
    """A clip's key as it stands in the tar: eleven digits, five of the input shard and six of the clip in it."""
    return f"{key:011d}"


def open_index(shard: Path) -> np.ndarray:
    """The index of a shard, memory-mapped, with dtype INDEX_DTYPE.

    Raises:
        UserError: the index is missing, is not one, or does not cover the shard to its end.
    """
    path = index_path(shard)
    remedy = "run `whale data_prep verify`, then the task that wrote the shard again"
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"the index {path} cannot be read: {error}", remedy) from None
    if index.dtype != INDEX_DTYPE or index.ndim != 1 or len(index) == 0:
        raise UserError(f"{path} holds {index.dtype} {index.shape}, which is no clip index", remedy)
    end = int(index["offset"][-1] + index["length"][-1]) + len(END_OF_TAR)
    if not shard.is_file() or shard.stat().st_size != end:
        found = f"has {shard.stat().st_size} bytes" if shard.is_file() else "is missing"
        raise UserError(f"the shard {shard} {found}, its index says {end} bytes", remedy)
    return index


def read_raw(descriptor: int, row: np.void) -> tuple[str, dict[str, bytes]]:
    """Key and members of the clip at `row` of the index, by one `pread` (which keeps no position: safe across forks).

    Raises:
        ValueError: the bytes there are not that clip.
    """
    raw = os.pread(descriptor, int(row["length"]), int(row["offset"]))
    if len(raw) != row["length"] or len(raw) % BLOCK_BYTES:
        raise ValueError(f"{len(raw)} bytes where the index says {row['length']}")
    key, members = from_tar(raw)
    if key != key_name(int(row["key"])):
        raise ValueError(f"the index says clip {key_name(int(row['key']))}, the shard holds {key}")
    return key, members

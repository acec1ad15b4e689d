"""Finds episodes that are there more than once: bit for bit, or encoded anew.

One row an episode is all that is kept of it, so that a million are compared in memory and the rows travel with the
clips (`episodes.npy`): a later conversion leaves out what an earlier folder holds.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from whale.data_prep.images import Images, Video, content_digest, decode_frames
from whale.data_prep.resample import Numbers
from whale.errors import UserError

LOOKS = 3
ROW = np.dtype([
    ("unit", "<u4"), ("record", "<u4"), ("num_steps", "<u4"), ("place", "<u8"), ("content", "<u8"), ("motion", "<u8"),
    ("look", "<u8", (LOOKS,)),
])
"""One record: its input shard and its index there; steps, 0 where it is of no use; the place of its recording in
[0, 2^64), which decides the split; hashes of what is stored and of the motion (0: none); looks of three frames."""
Known = list[tuple[Path, np.ndarray]]
"""Folders converted before, each with the rows of the episodes in it."""
MAX_BITS = 24
"""Two looks are one when no more of their 192 bits differ: re-encoding changes few, another scene about half."""
_GRID, _CELL_PX, _MARGIN = 9, 4, 4.0


def number_of(content: bytes) -> int:
    """64 bits of a hash."""
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def _look(images: Images, bgr: bool) -> np.ndarray:
    """Where the first, middle and last frame get brighter from left to right: 64 bits each, as uint64 [LOOKS].

    Of a video it is the first frame three times: to reach the others, all between would be decoded.
    """
    length = len(images)
    at = [0] if isinstance(images, Video) else [0, length // 2, length - 1]
    grey = decode_frames(images, at, _GRID * _CELL_PX, bgr).astype(np.float32).mean(-1)
    cells = grey.reshape(len(at), _GRID, _CELL_PX, _GRID, _CELL_PX).mean((2, 4))
    # Flat areas would give a bit of noise each: only a rise counts.
    bits = cells[:, : _GRID - 1, 1:] > cells[:, : _GRID - 1, :-1] + _MARGIN
    looks = np.packbits(bits.reshape(len(at), -1), axis=1).view("<u8")[:, 0]
    return np.broadcast_to(looks, LOOKS) if len(at) == 1 else looks


def _motion(numbers: Numbers) -> int:
    """Hash of the motion to the millimetre and milliradian; 0 where it tells no episodes apart."""
    moves = np.rint(numbers.actions[numbers.action_known, :6] * 1000).astype("<i4")
    return number_of(moves.tobytes()) if len(moves) > 1 and (moves != moves[0]).any() else 0


def row_of(unit: int, record: int, place: int, numbers: Numbers, images: Images, bgr: bool) -> np.ndarray:
    """The row of an episode; a BadImageError when a frame cannot be decoded."""
    proprio = b"" if numbers.proprio is None else numbers.proprio.tobytes()
    content = number_of(content_digest(images) + numbers.actions.tobytes() + proprio)
    look = _look(images, bgr)
    return np.array((unit, record, len(numbers.actions), place, content, _motion(numbers), look), ROW)


def _repeats(values: np.ndarray) -> list[np.ndarray]:
    """Indices, rising, of each value that occurs more than once."""
    order = np.argsort(values, kind="stable")
    same = np.concatenate([[False], values[order][1:] == values[order][:-1], [False]])
    order = order[same[:-1] | same[1:]] if len(order) else order
    return np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if len(order) else []


def find_duplicates(rows: np.ndarray) -> dict[int, int]:
    """Index of each row that repeats an earlier one, to the index of the first of its kind."""
    first: dict[int, int] = {}
    used = np.flatnonzero(rows["num_steps"])
    for group in _repeats(rows["content"][used]):
        first |= {int(used[i]): int(used[group[0]]) for i in group[1:]}
    used = np.flatnonzero((rows["num_steps"] > 0) & (rows["motion"] > 0))
    used = used[~np.isin(used, list(first))]
    for group in _repeats(rows["motion"][used]):
        left = used[group]
        while len(left) > 1:
            differing = np.unpackbits((rows["look"][left[1:]] ^ rows["look"][left[0]]).view(np.uint8), axis=1).sum(1)
            alike = differing <= MAX_BITS
            first |= dict.fromkeys(left[1:][alike].tolist(), int(left[0]))
            left = left[1:][~alike]
    return {i: first.get(o, o) for i, o in sorted(first.items())}


def known_rows(folders: Sequence[Path]) -> Known:
    """Rows of the episodes that folders of clips hold.

    Raises:
        UserError: one is no finished conversion.
    """
    known = []
    for folder in folders:
        try:
            rows = np.load(folder / "episodes.npy", allow_pickle=False)
            left_out = json.loads((folder / "quarantine.json").read_text())["episodes"]
            if rows.dtype != ROW:
                raise ValueError("episodes.npy is of another version")
            if not (folder / "manifest.json").is_file():
                raise ValueError("it is being written again")
        except (OSError, ValueError, KeyError) as error:
            problem = f"{folder} does not say which episodes it holds: {error}"
            raise UserError(problem, "name in `known` folders that `whale data_prep convert` has finished") from None
        units = rows["unit"].astype(np.int64)  # rising; each record has its row
        for one in left_out:
            first = int(np.searchsorted(units, one["unit"])) + one["record"]
            rows["num_steps"][first : first + one["num_records"]] = 0
        known.append((folder, rows[rows["num_steps"] > 0]))
    return known

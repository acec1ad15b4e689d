"""`stats.json`: statistics of actions and rewards on the train split, in physical units, shipped with every model.

Two passes over the numbers of the clips, in their order, in bounded memory. Quantiles are exact: the first pass counts
the upper 16 bits of every float32, the second the lower 16 bits of those that share their upper ones with a quantile.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from whale.actions import ActionScale
from whale.clips.manifest import Manifest, hash_of
from whale.clips.reader import ClipReader
from whale.clips.window import Windows
from whale.errors import UserError
from whale.publish import write_json

QUANTILES = {"q01": 0.01, "q99": 0.99}
_CHUNK_CLIPS = 128


def _ordered(values: np.ndarray) -> np.ndarray:
    """float32 to uint32 in the same order; both zeros are one."""
    bits = (values + np.float32(0.0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _unordered(bits: np.ndarray) -> np.ndarray:
    bits = bits.astype(np.uint32)
    return np.where(bits >> 31, bits & np.uint32(0x7FFFFFFF), ~bits).view(np.float32)


def _count(bins: np.ndarray, columns: int) -> np.ndarray:
    """How often each of 65536 bins occurs in each column of [N, D], int64 [D, 65536]."""
    numbered = bins.astype(np.int64) + (np.arange(columns) << 16)
    return np.bincount(numbered.ravel(), minlength=columns << 16).reshape(columns, 1 << 16)


class Summary:
    """Statistics of the columns of float32 [N, D] that come in pieces, twice; a quantile is a value that occurs."""

    def __init__(self, columns: int):
        self.columns, self.count = columns, 0
        self._sum, self._squares = np.zeros(columns), np.zeros(columns)
        self._min, self._max = np.full(columns, np.inf), np.full(columns, -np.inf)
        self._upper = np.zeros((columns, 1 << 16), np.int64)

    def add(self, values: np.ndarray) -> None:
        """First pass."""
        if len(values):
            self.count += len(values)
            self._sum += values.sum(0, np.float64)
            self._min, self._max = np.minimum(self._min, values.min(0)), np.maximum(self._max, values.max(0))
            self._upper += _count(_ordered(values) >> 16, self.columns)

    def begin_again(self) -> None:
        """Between the passes."""
        self._mean = self._sum / self.count
        ranks = np.rint(np.array(list(QUANTILES.values())) * (self.count - 1))  # as NumPy's "nearest"
        below = np.cumsum(self._upper, 1)
        self._bin = np.array([[np.searchsorted(column, rank, side="right") for column in below] for rank in ranks])
        before = np.take_along_axis(below - self._upper, self._bin.T, 1).T
        self._rank = ranks[:, None] - before
        self._lower = np.zeros((len(ranks), self.columns, 1 << 16), np.int64)

    def add_again(self, values: np.ndarray) -> None:
        """Second pass, the same values."""
        self._squares += ((values - self._mean) ** 2).sum(0)
        bits = _ordered(values)
        for quantile, bins in enumerate(self._bin):
            row, column = np.nonzero(bits >> 16 == bins)
            np.add.at(self._lower[quantile], (column, bits[row, column] & 0xFFFF), 1)

    def values(self) -> dict[str, list[float]]:
        """Each statistic, of every column."""
        below = np.cumsum(self._lower, 2)
        lower = np.array([[np.searchsorted(below[q, d], self._rank[q, d], side="right") for d in range(self.columns)]
                          for q in range(len(QUANTILES))])  # fmt: skip
        found = dict(zip(QUANTILES, _unordered(self._bin << 16 | lower), strict=True))
        found |= {"mean": self._mean, "std": np.sqrt(self._squares / self.count), "min": self._min, "max": self._max}
        return {name: [float(x) + 0.0 for x in column] for name, column in found.items()}


def _chunks(reader: ClipReader) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Known actions float32 [N, 7] and their rewards float32 [M, 1] of clip after clip, some clips at a time."""
    for start in range(0, len(reader), _CHUNK_CLIPS):
        ks = np.arange(start, min(start + _CHUNK_CLIPS, len(reader)))
        windows = Windows.zeros(np.zeros(len(ks), np.int64), int(reader.num_frames[ks].max()), None)
        reader.fill(windows, np.arange(len(ks)), ks)
        known = windows.flags[..., 3]
        rewarded = known & (windows.rows["rewards_at"] != 0)[:, None]
        yield windows.actions[known], windows.rewards[rewarded][:, None]


def write_stats(folder: Path, manifest: Manifest, robot: str = "", licence: str = "") -> None:
    """Read the numbers of every train clip of a folder whose manifest is about to be published; publish `stats.json`.

    With them go the words that a model is to say of its data: the robot and the licence.

    Raises:
        UserError: no train clip has a known action, or a clip is damaged.
    """
    reader, actions, rewards = ClipReader(folder, "train", manifest), Summary(7), Summary(1)
    for chunk in _chunks(reader):
        actions.add(chunk[0])
        rewards.add(chunk[1])
    if not actions.count:
        raise UserError(f"no train clip in {folder} has a known action", "check the dataset's registry entry")
    summaries = [summary for summary in (actions, rewards) if summary.count]
    for summary in summaries:
        summary.begin_again()
    for chunk in _chunks(reader):
        for summary, part in zip(summaries, chunk, strict=False):
            summary.add_again(part)
    values: dict[str, Any] = {
        "dataset": reader.manifest.dataset, "robot": robot, "licence": licence,
        "num_clips": len(reader), "num_frames": int(reader.num_frames.sum()),
        "actions": {"count": actions.count, **actions.values()}, "rewards": None,
    }
    if rewards.count:
        flat = {name: column[0] for name, column in rewards.values().items()}
        values["rewards"] = {"count": rewards.count, **flat}
    write_json(folder / "stats.json", {**values, "hash": hash_of(values)})


def read_stats(folder: Path) -> dict[str, Any]:
    """What `stats.json` of a folder says.

    Raises:
        UserError: there is none, or it was changed after it was written.
    """
    path = Path(folder) / "stats.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no stats.json", "run the task that wrote the folder again")
    try:
        values = json.loads(path.read_bytes())
        found = values.pop("hash")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is damaged", "run the task that wrote the folder again") from None
    if found != hash_of(values):
        raise UserError(f"{path} does not match its own hash: it was changed after it was written",
                        "run the task that wrote the folder again")
    return values


def read_scale(folder: Path) -> tuple[str, ActionScale]:
    """Name of the dataset in a folder, and the scale of its actions: the 1 % and 99 % quantiles of the train split.

    Raises:
        UserError: there is no `stats.json`, or it is damaged.
    """
    values = read_stats(folder)
    return values["dataset"], ActionScale(low=tuple(values["actions"]["q01"]), high=tuple(values["actions"]["q99"]))

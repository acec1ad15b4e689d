"""Which episode is trained on and which is held out: decided once, by source recording, and frozen in `split.json`.

Episodes cut from one recording share its scene, so they stay on one side: each recording has a place by its hash alone,
and those below one threshold are held out. What is there more than once is one episode: the others are left out.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from whale.data_prep.duplicates import ROW, Known, find_duplicates
from whale.data_prep.episode import record_name
from whale.data_prep.source import InputShard
from whale.errors import UserError
from whale.publish import publish_file, write_json


@dataclass(frozen=True)
class SplitTable:
    """The content of `split.json`."""

    settings: str
    """Hash of everything that decides the output of the conversion."""
    val_below: int
    """Recordings whose place is below this are held out."""
    sources: dict[str, int]
    """Number of recordings on each side."""
    duplicates: dict[str, str]
    """Record that is left out, as `split[index]` of the source dataset, to the one it repeats."""
    same_records: tuple[str, ...]
    """Findings on splits of the source dataset that share records."""
    episodes: str
    """SHA-256 of `episodes.npy`."""


def place_of(source: str, seed: int) -> int:
    """The place of a recording in [0, 2^64): its hash, so that recordings added later move none."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{source}".encode()).digest()[:8], "big")


def threshold(places: np.ndarray, val_fraction: float) -> int:
    """Below which recordings are held out: about this fraction, with at least one on each side.

    Raises:
        UserError: there are not two.
    """
    places = np.unique(places)
    if len(places) < 2:
        raise UserError("all episodes were cut from one recording: nothing can be held out",
                        "convert more of the dataset")
    return min(max(round(val_fraction * 2**64), int(places[0]) + 1), int(places[-1]))


def _shared(shards: Sequence[InputShard], rows: np.ndarray) -> tuple[str, ...]:
    by_split: dict[str, list[int]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard.unit)
    used = rows[rows["num_steps"] > 0]
    contents = {split: np.unique(used["content"][np.isin(used["unit"], units)]) for split, units in by_split.items()}
    findings = []
    for a, b in combinations(contents, 2):
        common = len(np.intersect1d(contents[a], contents[b], assume_unique=True))
        if common and common == len(contents[a]) == len(contents[b]):
            findings.append(f"{a} and {b} of the source hold the same {common} records")
        elif common:
            findings.append(f"{a} and {b} of the source share {common} records")
    return tuple(findings)


def make_table(
    shards: Sequence[InputShard], rows: np.ndarray, known: Known, val_fraction: float, settings: str
) -> SplitTable:
    """Decide from the rows (`duplicates.ROW`) of all records, in order, and of the episodes that are known already.

    Raises:
        UserError: all episodes are known, or fewer than two recordings have one that can be used.
    """
    earlier = np.concatenate([np.empty(0, ROW), *(held for _, held in known)])

    def name(i: int) -> str:
        if i >= len(earlier):
            row = rows[i - len(earlier)]
            return record_name(shards[row["unit"]], int(row["record"]))
        ends = np.cumsum([len(held) for _, held in known])
        folder = known[int(np.searchsorted(ends, i, side="right"))][0]
        return f"record {earlier[i]['record']} of input shard {earlier[i]['unit']} in {folder}"

    found = {i: o for i, o in find_duplicates(np.concatenate([earlier, rows])).items() if i >= len(earlier)}
    kept = rows["num_steps"] > 0
    kept[[i - len(earlier) for i in found]] = False
    if not kept.any():
        raise UserError("every episode repeats one that a folder in `known` holds",
                        "there is nothing to convert; or leave that folder out of `known`")
    below = threshold(rows["place"][kept], val_fraction)
    places = np.unique(rows["place"][kept])
    sources = {"train": int((places >= below).sum()), "val": int((places < below).sum())}
    duplicates = {name(i): name(o) for i, o in found.items()}
    return SplitTable(settings, below, sources, duplicates, _shared(shards, rows), _sha256(rows))


def _sha256(rows: np.ndarray) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


def read_table(folder: Path, settings: str) -> SplitTable | None:
    """The frozen table, or None when there is none made with these settings, or not with its episodes."""
    try:
        table = TypeAdapter(SplitTable).validate_python(json.loads((folder / "split.json").read_text()))
        rows = np.load(folder / "episodes.npy", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return table if table.settings == settings and table.episodes == _sha256(rows) else None


def write_table(folder: Path, table: SplitTable, rows: np.ndarray) -> None:
    """Freeze a table, and the rows it was made of."""
    with publish_file(folder / "episodes.npy") as temporary, temporary.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
    write_json(folder / "split.json", dataclasses.asdict(table))

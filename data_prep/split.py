"""Which episode is trained on and which is held out: decided once, by source recording, and frozen in `split.json`.

Episodes cut from one recording share its scene, so they stay on one side. Two records with the same content are one
episode, wherever they lie: the second is left out and listed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from pydantic import TypeAdapter

from whale.data_prep.source import InputShard
from whale.errors import UserError
from whale.publish import write_json


@dataclass(frozen=True)
class Seen:
    """What the first pass notes of one record."""

    source: str
    """The recording that the episode was cut from."""
    content: str
    """SHA-256 of what a clip would take from it."""


@dataclass(frozen=True)
class SplitTable:
    """The content of `split.json`."""

    settings: str
    """Hash of everything that decides the output of the conversion."""
    sources: dict[str, str]
    """Source recording to `train` or `val`."""
    duplicates: dict[str, str]
    """Record that is left out to the record it repeats, both as `split[index]` of the source dataset."""
    same_records: tuple[str, ...]
    """Findings on splits of the source dataset that share records."""


def record_name(shard: InputShard, record: int) -> str:
    """A record as TFDS numbers it: `train[7]`."""
    return f"{shard.split}[{shard.first + record}]"


def assign(sources: Sequence[str], val_fraction: float, seed: int) -> dict[str, str]:
    """Split of each source, by its hash alone, so that sources added later move none; neither side is empty.

    Raises:
        UserError: there is only one source.
    """
    place = {
        source: int.from_bytes(hashlib.sha256(f"{seed}\n{source}".encode()).digest()[:8], "big") / 2**64
        for source in sorted(set(sources))
    }
    if len(place) < 2:
        raise UserError(
            f"all episodes were cut from one recording ({next(iter(place), 'none')}): nothing can be held out",
            "convert more of the dataset",
        )
    val = {source for source in place if place[source] < val_fraction} or {min(place, key=place.__getitem__)}
    if len(val) == len(place):
        val.remove(max(place, key=place.__getitem__))
    return {source: "val" if source in val else "train" for source in place}


def _shared(shards: Sequence[InputShard], seen: Sequence[Sequence[Seen]]) -> tuple[str, ...]:
    contents: dict[str, set[str]] = {}
    for shard, records in zip(shards, seen, strict=True):
        contents.setdefault(shard.split, set()).update(record.content for record in records)
    findings = []
    for a, b in combinations(contents, 2):
        common = contents[a] & contents[b]
        if contents[a] == contents[b]:
            findings.append(f"{a} and {b} of the source hold the same {len(common)} records")
        elif common:
            findings.append(f"{a} and {b} of the source share {len(common)} records")
    return tuple(findings)


def make_table(
    shards: Sequence[InputShard], seen: Sequence[Sequence[Seen]], val_fraction: float, seed: int, settings: str
) -> SplitTable:
    """Decide the split from the notes of the first pass, `seen[unit][record]`."""
    first: dict[str, str] = {}
    duplicates = {}
    for shard, records in zip(shards, seen, strict=True):
        for i, record in enumerate(records):
            name = record_name(shard, i)
            if (original := first.setdefault(record.content, name)) != name:
                duplicates[name] = original
    sources = [record.source for records in seen for record in records]
    return SplitTable(settings, assign(sources, val_fraction, seed), duplicates, _shared(shards, seen))


def read_table(path: Path, settings: str) -> SplitTable | None:
    """The frozen table, or None when there is none made with these settings."""
    if not path.is_file():
        return None
    table = TypeAdapter(SplitTable).validate_python(json.loads(path.read_text()))
    return table if table.settings == settings else None


def write_table(path: Path, table: SplitTable) -> None:
    """Freeze a table."""
    write_json(path, dataclasses.asdict(table))

"""`manifest.json`: what a folder of clips holds. Derived from the records of its input shards, never edited.

A folder holds clips of one dataset. Each input shard that was worked through leaves `records/<unit>.json`, published
after its shards; when all are there, the manifest is made from them, and its presence says that the folder is complete.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from whale.clips.clip import FORMAT_VERSION
from whale.clips.index import read_index
from whale.errors import UserError
from whale.publish import write_json

SPLITS = ("train", "val")
_SHARD_NAME = re.compile(r"(train|val)-\d{5,}-\d{3,}\.tar")


@dataclasses.dataclass(frozen=True)
class ShardInfo:
    """One published tar."""

    name: str
    split: str
    sha256: str
    num_bytes: int
    num_clips: int
    num_frames: int
    index_sha256: str
    """Of its member index."""


@dataclasses.dataclass(frozen=True)
class UnitRecord:
    """What became of one input shard."""

    unit: int
    source: str
    """Name of the input shard."""
    settings: str
    """Hash of everything that decides the output; a record with another hash is worked through again."""
    shards: tuple[ShardInfo, ...]
    skipped: dict[str, int]
    """Count of episodes left out, by reason."""
    left_out: tuple[tuple[int, int, int | None, str], ...] = ()
    """Each of them: index of its record, how many records it stands for, byte offset or None, reason in full."""
    noted: dict[str, int] = dataclasses.field(default_factory=dict)
    """Count of episodes that are there, by what they lack."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    format_version: int
    kind: str
    """`pixels` or `tokens`."""
    dataset: str
    tokenizer: str | None
    """Fingerprint of the tokenizer that made the tokens; None for pixels."""
    shards: tuple[ShardInfo, ...]
    """Ordered by input shard, then part; a split's clips are numbered in this order."""
    skipped: dict[str, int]
    hash: str
    """SHA-256 of all other fields: the identity of the data."""

    def of_split(self, split: str) -> tuple[ShardInfo, ...]:
        """The shards of one split, in order."""
        return tuple(shard for shard in self.shards if shard.split == split)


def hash_of(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def record_path(folder: Path, unit: int) -> Path:
    """Where the record of input shard number `unit` lies."""
    return folder / "records" / f"{unit:05d}.json"


def write_record(folder: Path, record: UnitRecord) -> None:
    """Publish a record; its shards must have been published before."""
    write_json(record_path(folder, record.unit), dataclasses.asdict(record))


def read_record(folder: Path, unit: int) -> UnitRecord | None:
    """The record of an input shard, or None while it is to be done: there is none, or one of another version."""
    path = record_path(folder, unit)
    try:
        return TypeAdapter(UnitRecord).validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError:
        return None


def _is_whole(path: Path, shard: ShardInfo) -> bool:
    """Whether a shard is there in full size, with its index."""
    try:
        return len(read_index(path)) == shard.num_clips and path.stat().st_size == shard.num_bytes
    except (OSError, UserError):
        return False


def read_done(folder: Path, unit: int, settings: str) -> UnitRecord | None:
    """The record of an input shard that was worked through with the same settings and whose shards are whole."""
    record = read_record(folder, unit)
    if record is None or record.settings != settings:
        return None
    return record if all(_is_whole(folder / shard.name, shard) for shard in record.shards) else None


def derive_manifest(records: Sequence[UnitRecord], dataset: str, tokenizer: str | None) -> Manifest:
    """The manifest that follows from the records of all input shards, in order."""
    if [record.unit for record in records] != list(range(len(records))):
        raise ValueError(f"these are not all records in order: {[record.unit for record in records]}")
    skipped: dict[str, int] = {}
    for record in records:
        for reason, count in record.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    shards = tuple(shard for record in records for shard in record.shards)
    kind = "tokens" if tokenizer else "pixels"
    draft = Manifest(FORMAT_VERSION, kind, dataset, tokenizer, shards, skipped, hash="")
    values = dataclasses.asdict(draft)
    del values["hash"]
    return dataclasses.replace(draft, hash=hash_of(values))


def _sums(manifest: Manifest) -> dict[str, dict[str, int]]:
    return {
        split: {"clips": sum(s.num_clips for s in manifest.of_split(split)),
                "frames": sum(s.num_frames for s in manifest.of_split(split)),
                "shards": len(manifest.of_split(split))}
        for split in SPLITS
    }


def publish_manifest(folder: Path, manifest: Manifest) -> None:
    """Publish `manifest.json`: last of all, for it says that the folder is complete."""
    write_json(folder / "manifest.json", dataclasses.asdict(manifest) | {"splits": _sums(manifest)})


def write_manifest(folder: Path, dataset: str, tokenizer: str | None, num_units: int) -> Manifest:
    """Publish the manifest that follows from the records of units 0 to num_units - 1."""
    records = [record for unit in range(num_units) if (record := read_record(folder, unit))]
    if len(records) != num_units:
        raise ValueError(f"{len(records)} records of {num_units} input shards in {folder}")
    manifest = derive_manifest(records, dataset, tokenizer)
    publish_manifest(folder, manifest)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of clips.

    Raises:
        UserError: there is none, it is of another format version, or it was changed by hand.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no manifest.json: it is no complete folder of clips",
                        "check the path, or run `whale data_prep convert` (or tokenize) to its end")
    again = "write the clips again with this version of `whale data_prep`"
    try:
        values = json.loads(path.read_bytes())
        version = values["format_version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a clip manifest", again) from None
    if version != FORMAT_VERSION:
        raise UserError(f"{path} has format version {version!r}; this code reads version {FORMAT_VERSION}", again)
    sums = values.pop("splits", None)
    try:
        manifest = TypeAdapter(Manifest).validate_python(values)
    except ValidationError as error:
        raise UserError(f"{path} is not a clip manifest: {error}", again) from None
    del values["hash"]
    if hash_of(values) != manifest.hash or sums != _sums(manifest):
        raise UserError(f"{path} does not match its own hash: it was changed after it was written", again)
    if strange := [shard.name for shard in manifest.shards if not _SHARD_NAME.fullmatch(shard.name)]:
        raise UserError(f"{path} names the shard {strange[0]!r}, which is no name of this format", again)
    return manifest

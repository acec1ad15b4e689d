"""What every task that writes a folder of clips does at its end."""

from pathlib import Path

from whale.clips.index import index_path
from whale.clips.manifest import SPLITS, Manifest, record_path

_SHARDS = [f"{split}-{'[0-9]' * 5}-{'[0-9]' * 3}" for split in SPLITS]
_WRITTEN = [f"{shard}{end}" for shard in _SHARDS for end in (".tar", ".idx.npy")]
_WRITTEN += [f"{folder}/{'[0-9]' * 5}.json" for folder in ("records", "notes")]
"""Only names that this project writes: the folder may hold other things."""
_LEFT_OVER = [f".tmp-{shard}*" for shard in _SHARDS] + ["records/.tmp-*.json", "notes/.tmp-*.json"]


def clear(folder: Path) -> None:
    """Remove all that a conversion writes: for one that failed as a whole."""
    names = ("manifest.json", "stats.json", "split.json", "episodes.npy", "quarantine.json", "convert_report.json")
    for pattern in (*names, *_WRITTEN):
        for path in folder.glob(pattern):
            path.unlink()
    _remove_empty(folder / "notes")


def remove_strangers(folder: Path, manifest: Manifest, num_units: int) -> None:
    """Remove shards, indices and records of an earlier run with other settings, and what a killed run left.

    Called when every input shard is done: no task at work in the folder has anything left to write (lock.py).
    """
    shards = {folder / shard.name for shard in manifest.shards}
    known = shards | {index_path(shard) for shard in shards}
    for record in (record_path(folder, unit) for unit in range(num_units)):
        known |= {record, folder / "notes" / record.name}
    for pattern in (*_WRITTEN, *_LEFT_OVER):
        for path in folder.glob(pattern):
            if path not in known:
                path.unlink()


def remove_notes(folder: Path) -> None:
    """Remove what the first pass noted: once nothing is left to be read again."""
    for path in folder.glob(_WRITTEN[-1]):
        path.unlink()
    _remove_empty(folder / "notes")


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()

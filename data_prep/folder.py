"""What every task that writes a folder of clips does at its end."""

from pathlib import Path

from whale.clips.index import index_path
from whale.clips.manifest import SPLITS, Manifest, record_path

_SHARDS = [f"{split}-{'[0-9]' * 5}-{'[0-9]' * 3}" for split in SPLITS]
_WRITTEN = [f"{shard}{end}" for shard in _SHARDS for end in (".tar", ".idx.npy")] + [f"records/{'[0-9]' * 5}.json"]
"""Only names that this project writes: the folder may hold other things."""
_LEFT_OVER = [f".tmp-{shard}*" for shard in _SHARDS] + ["records/.tmp-*.json"]


def clear(folder: Path) -> None:
    """Remove all that a conversion writes: for one that failed as a whole."""
    names = ("manifest.json", "stats.json", "split.json", "convert_report.json")
    for pattern in (*names, *_WRITTEN):
        for path in folder.glob(pattern):
            path.unlink()


def remove_strangers(folder: Path, manifest: Manifest, num_units: int) -> None:
    """Remove shards, indices and records of an earlier run with other settings, and what a killed run left."""
    shards = {folder / shard.name for shard in manifest.shards}
    known = shards | {index_path(shard) for shard in shards}
    known |= {record_path(folder, unit) for unit in range(num_units)}
    for pattern in (*_WRITTEN, *_LEFT_OVER):
        for path in folder.glob(pattern):
            if path not in known:
                path.unlink()

"""What every task that writes a folder of clips does at its end."""

from pathlib import Path

from whale.clips.index import index_path
from whale.clips.manifest import Manifest, record_path


def clear(folder: Path) -> None:
    """Remove all that a conversion writes: for one that failed as a whole."""
    names = ("manifest.json", "stats.json", "split.json", "convert_report.json")
    for pattern in (*names, "*.tar", "*.idx.npy", "records/*.json"):
        for path in folder.glob(pattern):
            path.unlink()


def remove_strangers(folder: Path, manifest: Manifest, num_units: int) -> None:
    """Remove shards, indices and records of an earlier run with other settings, and what a killed run left."""
    shards = {folder / shard.name for shard in manifest.shards}
    known = shards | {index_path(shard) for shard in shards}
    known |= {record_path(folder, unit) for unit in range(num_units)}
    for pattern in ("*.tar", "*.idx.npy", "records/*.json", ".tmp-*", "records/.tmp-*"):
        for path in folder.glob(pattern):
            if path not in known:
                path.unlink()

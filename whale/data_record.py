"""What a model was trained on, as its export records it."""

from typing import Any

from whale.clips.loader import DataConfig
from whale.clips.reader import ClipReader
from whale.config import to_values
from whale.models.dataset_card import dataset_card


def data_record(config: DataConfig) -> dict[str, Any]:
    """Entries of an export's record.

    Returns:
        `data`: folder -> hash of its manifest; `batch` in clips and `frames` a window; `datasets`: name -> `clips` and
        `frames` to draw from (frames only where no source is limited in clips), and the `card` as plain values.
    """
    hashes: dict[str, str] = {}
    datasets: dict[str, dict[str, Any]] = {}
    for source in config.sources:
        manifest = ClipReader(source.folder, "train").manifest
        name, card = dataset_card(source.folder)
        shards = manifest.of_split("train")
        clips, frames = (sum(getattr(shard, key) for shard in shards) for key in ("num_clips", "num_frames"))
        one = datasets.setdefault(name, {"clips": 0, "frames": 0, "card": to_values(card)})
        one["clips"] += clips if source.clips is None else min(source.clips, clips)
        if source.clips is None and "frames" in one:
            one["frames"] += frames
        else:
            one.pop("frames", None)
        hashes[str(source.folder)] = manifest.hash
    return {"data": hashes, "batch": config.batch, "frames": config.frames, "datasets": datasets}

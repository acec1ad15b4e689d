"""What training validates on: fixed held-out clips of the same sources, whatever part of the train split is used."""

from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from whale.actions import ActionScale
from whale.clips.loader import ClipLoader, DataConfig
from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.ranks import Ranks


def held_out_batches(
    config: DataConfig, scales: dict[str, ActionScale], count: int, here: Ranks, micro_batch: int | None
) -> list[dict[str, Tensor]]:
    """This rank's share of the first batches of the validation split, of all its clips.

    They come in parts of `micro_batch` clips (all of a share where it is None), scaled as the model wants it.
    """
    everything = tuple(replace(source, clips=None) for source in config.sources)
    loader = ClipLoader(replace(config, sources=everything), "val", here.rank, here.world_size, scales)
    size = micro_batch or config.batch
    return [
        {name: value[i : i + size] for name, value in batch.items()}
        for batch in islice(loader.batches(), count)
        for i in range(0, len(batch["position"]), size)
    ]


def held_out_frames(config: DataConfig, count: int) -> Tensor:
    """The first window of up to `count` held-out clips of the first source, uint8 [B, T, H, W, 3].

    Raises:
        UserError: no held-out clip is as long as the window.
    """
    reader, length = ClipReader(config.sources[0].folder, "val"), config.frames
    long = [k for k, num_frames in enumerate(reader.num_frames) if num_frames >= length]
    if not long:
        raise UserError(f"no held-out clip of {reader.folder} has {length} frames", "choose a smaller window")
    clips = [reader.read(k).frames for k in long[:count]]
    return torch.stack([torch.from_numpy(frames[:length]) for frames in clips if frames is not None])

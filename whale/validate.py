"""What training validates on: fixed held-out clips of the same sources, whatever part of the train split is used."""

from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from whale.actions import ActionScale
from whale.clips.loader import ClipLoader, DataConfig
from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.models.world_model import WorldModel
from whale.objectives.validation import ValidationConfig
from whale.ranks import Ranks, total_of


def read_held_out(
    data: DataConfig, model: WorldModel, config: ValidationConfig, here: Ranks, micro_batch: int | None
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor] | None]:
    """What a dynamics objective validates on: batches to predict, and clips to imagine; called by all ranks.

    Raises:
        UserError: action-following is asked for, and no clip tells of it.
    """
    context = model.config.dynamics.band
    batches = held_out_batches(data, model.scales, config.batches, here, micro_batch)
    following = following_batch(data, model.scales, config.following_clips, context + config.following_horizon, here)
    scored = 0 if following is None else int(following["scored"][:, context:].sum())
    if config.min_action_following is not None and total_of(scored) == [0]:
        raise UserError(
            f"validation.min_action_following is asked for, and of {config.following_clips} held-out clips none has "
            f"more than {context} frames and another of its dataset, as long, that was given other actions",
            "hold out more or longer clips, choose a smaller dynamics.band, or do not ask for it",
        )
    return batches, following


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


def following_batch(
    config: DataConfig, scales: dict[str, ActionScale], clips: int, frames: int, here: Ranks
) -> dict[str, Tensor] | None:
    """This rank's share of held-out clips, each with the actions of another of its dataset; None where `clips` is 0.

    To the entries of `ClipLoader.batches` come `other_actions` and `other_action_mask`, and `scored`, bool [B, T]: both
    clips last until there. A clip is left unscored where all clips of its dataset have the same actions.
    """
    if not clips:
        return None
    number = -(-clips // here.world_size) * here.world_size
    everything = tuple(replace(source, clips=None) for source in config.sources)
    longer = replace(config, sources=everything, frames=frames, batch=number, workers=0)
    batch = next(ClipLoader(longer, "val", scales=scales).batches())  # all ranks read all: partners may be anywhere
    partner = torch.tensor([_partner(i, batch) for i in range(number)])
    batch |= {f"other_{name}": batch[name][partner] for name in ("actions", "action_mask")}
    batch["scored"] = batch["valid"] & batch["valid"][partner] & (partner != torch.arange(number))[:, None]
    share = number // here.world_size
    return {name: value[here.rank * share : (here.rank + 1) * share].clone() for name, value in batch.items()}


def _partner(clip: int, batch: dict[str, Tensor]) -> int:
    """The next clip of the same dataset with other actions; the clip itself where there is none."""
    number = len(batch["position"])
    for other in ((clip + k) % number for k in range(1, number)):
        same = batch["actions"][other].equal(batch["actions"][clip])
        if not same and batch["embodiment"][other] == batch["embodiment"][clip]:
            return other
    return clip


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

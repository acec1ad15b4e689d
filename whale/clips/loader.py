"""Batches for training: the order of `mixture.py`, read by worker processes, cut into windows, sliced by rank."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whale.actions import ActionScale
from whale.clips.batch import BatchReader
from whale.clips.merging import MergeConfig, Merging, merge_axes
from whale.clips.mixture import Mixture
from whale.clips.open_files import OpenFiles
from whale.clips.reader import ClipReader
from whale.clips.stats import read_scale
from whale.config import configclass
from whale.errors import UserError
from whale.worker import begin_loading


@configclass
class DataSource:
    """One folder of clips in a mixture."""

    folder: Path
    """A folder that `data_prep convert` or `tokenize` wrote."""
    weight: float = 1.0
    """Share of the draws, relative to the other sources."""
    clips: int | None = None
    """Use only the first this many clips of the split (few-shot adaptation); null uses all."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight {self.weight} must be positive and finite")
        if self.clips is not None and self.clips < 1:
            raise ValueError(f"clips {self.clips} must be at least 1, or null")


@configclass
class DataConfig:
    """What training reads."""

    sources: tuple[DataSource, ...]
    """Folders of clips, all pixels or all tokens of one tokenizer."""
    frames: int
    """Window length in frames; longer clips are cropped at random, shorter ones padded."""
    batch: int
    """Global batch in clips, over all ranks."""
    workers: int = 2
    """Reading processes a rank; 0 reads in the training process."""
    seed: int = 0
    """Seed of the order, of the crops and of what is merged."""
    merge: MergeConfig = MergeConfig()
    """Training on merged actions, for retracing; held-out clips stay as they are."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        for name, least in (("frames", 1), ("batch", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} must be at least {least}")


@dataclass(frozen=True)
class OrderState:
    """Where a run stands in its data: enough to go on with exactly the next sample."""

    seed: int
    epoch: int
    """Whole passes over as many samples as there are clips in all sources."""
    position: int
    """Samples drawn since that epoch began."""
    fingerprint: int
    """CRC-32 of what decides the order: manifests, weights, limits, split."""


def _find_scales(config: DataConfig, given: dict[str, ActionScale] | None) -> dict[str, ActionScale]:
    """Scale by dataset, in the order of the embodiment numbers."""
    found: dict[str, ActionScale] = {}
    for source in config.sources:
        name, scale = read_scale(source.folder)
        if given is not None and name not in given:
            raise UserError(f"{source.folder} holds {name!r}, the model was trained on {', '.join(given)}",
                            "use clips of a dataset that the model knows")
        if given is None and found.setdefault(name, scale) != scale:
            raise UserError(f"two sources hold {name!r} with different action statistics ({source.folder})",
                            "convert them together, so that they share their statistics")
    return given if given is not None else dict(sorted(found.items()))


def _frame_shape(reader: ClipReader) -> tuple[str | None, tuple[int, ...]]:
    clip = reader.read(0)
    frames = clip.frames if clip.frames is not None else clip.tokens
    assert frames is not None
    return reader.manifest.tokenizer, frames.shape[1:]


class ClipLoader:
    """Batches of one split for one rank.

    Args:
        config: what to read.
        split: `train` or `val`.
        rank, world_size: this process takes the rank-th contiguous slice of every global batch.
        scales: action scales by dataset of a model trained before; its order numbers the embodiments. By default they
            come from the sources.

    Raises:
        UserError: a source cannot be read, sources do not fit together, or the batch does not divide by the ranks.
    """

    def __init__(
        self, config: DataConfig, split: str, rank: int = 0, world_size: int = 1,
        scales: dict[str, ActionScale] | None = None,
    ):
        if not config.sources:
            raise UserError("the data configuration has no sources", "name at least one folder of clips")
        if config.batch % world_size:
            raise UserError(f"a global batch of {config.batch} clips does not divide by {world_size} ranks",
                            f"choose a multiple of {world_size} for `batch`")
        self.config, self.rank, self.world_size = config, rank, world_size
        files = OpenFiles()
        readers = [ClipReader(source.folder, split, files=files) for source in config.sources]
        self.sizes = [self._size(source, reader) for source, reader in zip(config.sources, readers, strict=True)]
        first = _frame_shape(readers[0])
        for source, reader in zip(config.sources, readers, strict=True):
            if (found := _frame_shape(reader)) != first:
                raise UserError(f"{source.folder} holds {found[1]} frames of tokenizer {found[0]}, "
                                f"{config.sources[0].folder} {first[1]} of {first[0]}",
                                "mix only clips of one size and one tokenizer")
        self.tokenizer, self.frame_shape = first
        self.scales = _find_scales(config, scales)
        self.datasets = list(self.scales)
        self._mixture = Mixture(self.sizes, [source.weight for source in config.sources], config.seed)
        axes = self._axes(readers, split)
        self.merged_datasets = sorted({r.manifest.dataset for r, a in zip(readers, axes, strict=True) if a is not None})
        self._batches = BatchReader(
            readers, self._mixture, self.scales, config.batch // world_size, config.frames, self.frame_shape,
            Merging(config.merge, self._mixture), axes,
        )  # fmt: skip
        order = [(r.manifest.hash, s.weight, s.clips, split) for s, r in zip(config.sources, readers, strict=True)]
        self.fingerprint = zlib.crc32(repr(order).encode())

    @staticmethod
    def _size(source: DataSource, reader: ClipReader) -> int:
        size = len(reader) if source.clips is None else source.clips
        if not 1 <= size <= len(reader):
            raise UserError(f"{source.folder} has {len(reader)} {reader.split} clips, {size} are asked for",
                            f"choose `clips` from 1 to {len(reader)}")
        return size

    def _axes(self, readers: list[ClipReader], split: str) -> list[str | None]:
        """In which the actions of each source are merged; None where they are not."""
        if split != "train" or not self.config.merge.share:
            return [None] * len(readers)
        axes = [merge_axes(reader) for reader in readers]
        if not any(axes):
            raise UserError(
                "merge.share asks for merged actions, and no source has any that can be merged: end-effector deltas "
                "without unknown dimensions",
                "set merge.share to 0",
            )
        return axes

    @property
    def epoch_length(self) -> int:
        """Samples an epoch: the clips of all sources."""
        return sum(self.sizes)

    def _rank_positions(self, start_position: int) -> Iterator[range]:
        """Positions of this rank's slice of each global batch, without end."""
        share = self.config.batch // self.world_size
        while True:
            yield range(start_position + self.rank * share, start_position + (self.rank + 1) * share)
            start_position += self.config.batch

    def batches(self, start_position: int = 0) -> Iterator[dict[str, Any]]:
        """Batches from a global position on, without end; batch n begins at `start_position + n * config.batch`.

        With B clips (of this rank) and T = config.frames, torch tensors: `frames` uint8 [B, T, H, W, 3] or `tokens`
        int64 [B, T, S]; `actions` float32 [B, T, 7] scaled, zero where not actuated or not known; `action_mask` bool
        [B, T, 7]; `action_status` int64 [B, 7]; `action_type` int64 [B], an index into ActionType; `rewards` float32
        and `reward_mask` bool [B, T]; `terminated` and `terminated_mask` bool [B, T]; `valid` bool [B, T];
        `merged` bool [B, T], where an action stands for several, so that no reward belongs to it (`merging.py`);
        `control_period_sec` float32 [B]; `embodiment` int64 [B], an index into `datasets`; `position` int64 [B].

        Raises:
            UserError: a clip is damaged.
        """
        import torch
        from torch.utils.data import DataLoader

        todo = self._rank_positions(start_position)
        if not self.config.workers:
            yield from (self._batches.unpack(self._batches[positions]) for positions in todo)
        # This process reads the first batch itself, and the second while the workers start: training need not wait.
        yield self._batches.unpack(self._batches[next(todo)])
        second = next(todo)
        ahead = iter(DataLoader(
            self._batches,  # type: ignore[arg-type]
            sampler=todo,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self.config.workers,
            prefetch_factor=4,
            worker_init_fn=begin_loading,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the workers' seeds, which are not used, take nothing from the process's own
        ))  # fmt: skip
        yield self._batches.unpack(self._batches[second])
        yield from map(self._batches.unpack, ahead)

    def state(self, position: int) -> OrderState:
        """Where a run stands that has drawn `position` samples over all ranks."""
        epoch, rest = divmod(position, self.epoch_length)
        return OrderState(self.config.seed, epoch, rest, self.fingerprint)

    def resume_position(self, state: OrderState) -> int:
        """The global position to go on from.

        Raises:
            UserError: the state is of other data or another seed, so that samples would be repeated or left out.
        """
        if state.fingerprint != self.fingerprint:
            raise UserError("the checkpoint was trained on other data, weights or limits than this configuration names",
                            "give the original `sources`, or start a new run from the exported model")
        if state.seed != self.config.seed:
            raise UserError(f"the checkpoint's data seed is {state.seed}, the configuration's {self.config.seed}",
                            f"set the data seed to {state.seed}")
        return state.epoch * self.epoch_length + state.position

"""Pixel clips to token clips, shard by shard: same names, same keys, same order.

Each pixel shard is worked through on its own and leaves a record, so a restart does only what is missing and gives the
same bytes.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from whale.clips.clip import FORMAT_VERSION, Clip
from whale.clips.manifest import (
    Manifest,
    ShardInfo,
    UnitRecord,
    derive_manifest,
    hash_of,
    publish_manifest,
    read_done,
    read_manifest,
    write_record,
)
from whale.clips.reader import ClipReader
from whale.clips.writer import Shard
from whale.data_prep.config import TokenizeConfig
from whale.data_prep.folder import remove_strangers
from whale.data_prep.lock import FolderLock
from whale.errors import UserError
from whale.progress import Progress, say
from whale.publish import publish_file

if TYPE_CHECKING:
    import torch


class Tokenizer(Protocol):
    """What tokenising needs of a tokenizer."""

    @property
    def fingerprint(self) -> str:
        """Identity of what turns pixels into tokens."""

    @property
    def num_codes(self) -> int:
        """V."""

    def encode(self, frames: "torch.Tensor") -> "torch.Tensor":
        """Frames uint8 [N, H, W, 3] to codes int64 [N, S]; a ValueError for frames of another size."""


def _encode(clips: list[Clip], tokenizer: Tokenizer) -> list[Clip]:
    """The clips with tokens in place of frames; all their frames go through the tokenizer together."""
    import torch

    frames = torch.from_numpy(np.concatenate([clip.frames for clip in clips if clip.frames is not None]))
    try:
        tokens = tokenizer.encode(frames).cpu().numpy().astype(np.uint16)
    except ValueError as error:
        problem = f"the tokenizer does not take clip {clips[0].info.episode}: {error}"
        raise UserError(problem, "convert the clips to the size that the tokenizer was trained on") from None
    parts = np.split(tokens, np.cumsum([clip.num_frames for clip in clips])[:-1])
    return [
        dataclasses.replace(
            clip, frames=None, tokens=part, info=dataclasses.replace(clip.info, tokenizer=tokenizer.fingerprint)
        )
        for clip, part in zip(clips, parts, strict=True)
    ]


def _tokenize_shard(reader: ClipReader, number: int, out: Path, tokenizer: Tokenizer, batch_frames: int) -> ShardInfo:
    info = reader.shards[number]
    shard = Shard(out / info.name, info.split)
    try:
        waiting: list[tuple[int, Clip]] = []

        def flush() -> None:
            for (key, _), clip in zip(waiting, _encode([clip for _, clip in waiting], tokenizer), strict=True):
                shard.add(key, clip)
            waiting.clear()

        for k in reader.of_shard(number):
            waiting.append((reader.key(k), reader.read(k)))
            if sum(clip.num_frames for _, clip in waiting) >= batch_frames:
                flush()
        if waiting:
            flush()
        finished = shard.finish()
        shard.publish()
    finally:
        shard.discard()
    return finished


def _records(
    clips: Path, source: Manifest, tokenizer: Tokenizer, out: Path, batch_frames: int, settings: str
) -> list[UnitRecord]:
    """The records of all shards, once those that were not done have been tokenized."""
    readers = {split: ClipReader(clips, split) for split in {shard.split for shard in source.shards}}
    progress = Progress("tokenize", sum(shard.num_frames for shard in source.shards), "frames")
    numbers = dict.fromkeys(readers, 0)
    records = []
    for unit, shard in enumerate(source.shards):
        number = numbers[shard.split]
        numbers[shard.split] += 1
        record = read_done(out, unit, settings)
        if record is None:
            made = _tokenize_shard(readers[shard.split], number, out, tokenizer, batch_frames)
            record = UnitRecord(unit, shard.name, settings, (made,), {})
            write_record(out, record)
        records.append(record)
        progress.advance(shard.num_frames, shard.name)
    progress.close()
    return records


def tokenize_folder(clips: Path, tokenizer: Tokenizer, out: Path, batch_frames: int) -> None:
    """Write the token clips of the folder `clips` to `out`.

    Raises:
        UserError: `clips` does not hold pixels of the tokenizer's size, or its codes do not fit the format.
    """
    source = read_manifest(clips)
    if source.kind != "pixels":
        raise UserError(f"{clips} holds tokens of tokenizer {source.tokenizer}", "name a folder of pixel clips")
    if tokenizer.num_codes > np.iinfo(np.uint16).max + 1:
        problem = f"the tokenizer has {tokenizer.num_codes} codes, clips hold at most 65536"
        raise UserError(problem, "train a tokenizer with fewer codes")
    settings = hash_of([FORMAT_VERSION, source.hash, tokenizer.fingerprint, batch_frames])
    with FolderLock(out, settings, 0):
        (out / "manifest.json").unlink(missing_ok=True)
        records = _records(clips, source, tokenizer, out, batch_frames, settings)
        manifest = derive_manifest(records, source.dataset, tokenizer.fingerprint)
        with publish_file(out / "stats.json") as temporary:
            shutil.copyfile(clips / "stats.json", temporary)
        remove_strangers(out, manifest, len(records))
        publish_manifest(out, manifest)
    total = sum(shard.num_clips for shard in manifest.shards)
    say(f"{out}: {total} clips of {source.dataset}, tokenizer {tokenizer.fingerprint[:12]}")


def tokenize(config: TokenizeConfig) -> None:
    """The task: load the exported tokenizer and write `config.out`."""
    from whale.models.tokenizer import VideoTokenizer

    tokenize_folder(config.clips, VideoTokenizer.from_pretrained(config.tokenizer), config.out, config.batch_frames)

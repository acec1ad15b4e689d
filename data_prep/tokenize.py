"""Pixel clips to token clips, shard by shard: same names, same keys, same order.

Each pixel shard is worked through on its own and leaves a record, so a restart does only what is missing, and any
number of processes and tasks give the same bytes. Frames are encoded in batches that are cut per shard and always of
one size: how a matrix product is rounded may depend on its size, and a token that is nearly a tie on that.
"""

import dataclasses
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import Field

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
from whale.config import configclass
from whale.data_prep.folder import remove_strangers
from whale.data_prep.lock import FolderLock
from whale.errors import UserError
from whale.progress import Progress, say
from whale.publish import publish_file
from whale.signals import ASKING

if TYPE_CHECKING:
    import torch

Positive = Annotated[int, Field(ge=1)]


@configclass
class TokenizeConfig:
    """Turn pixel clips into token clips, on one process per device."""

    clips: Path
    """Folder of pixel clips."""
    tokenizer: Path
    """An exported tokenizer: a folder, or a hub id `organisation/name`."""
    out: Path
    """Folder of clips to write."""
    batch_frames: Positive = 512
    """Frames encoded at a time, the last ones of a shard filled up; bounds the memory."""
    workers: Positive = 4
    """Threads of each process that read and decode clips ahead of the tokenizer."""
    device: Literal["auto", "cpu"] = "auto"
    """`auto` takes a GPU where there is one. Products are computed in fp32 everywhere, so tokens agree but for ties."""
    tasks: Positive = 1
    """Share the shards out over this many runs of the command, such as a SLURM array."""
    task: Annotated[int, Field(ge=0)] = 0
    """Which of them this run is, from 0; the last to end finishes."""

    def __post_init__(self) -> None:
        """A task beyond the last has nothing to do."""
        if self.task >= self.tasks:
            raise ValueError(f"task {self.task} must be below tasks {self.tasks}: they are counted from 0")


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


def _read_ahead(folder: Path, source: Manifest, shard: ShardInfo, workers: int) -> Iterator[tuple[int, Clip]]:
    """Keys and clips of a shard, in order, read and decoded in threads."""
    readers = SimpleQueue[ClipReader]()  # a reader is used by one thread at a time
    for _ in range(workers):
        readers.put(ClipReader(folder, shard.split, dataclasses.replace(source, shards=(shard,))))

    def read(k: int) -> tuple[int, Clip]:
        reader = readers.get()
        try:
            return reader.key(k), reader.read(k)
        finally:
            readers.put(reader)

    with ThreadPoolExecutor(workers) as pool:
        ahead = deque[Future[tuple[int, Clip]]]()
        for k in range(shard.num_clips):
            ahead.append(pool.submit(read, k))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _batches(frames: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Frames of consecutive clips, cut into batches of `size`; the last one may be smaller."""
    rest, count = list[np.ndarray](), 0
    for some in frames:
        rest.append(some)
        count += len(some)
        if count >= size:
            whole, full = np.concatenate(rest), count // size * size
            yield from np.split(whole[:full], full // size)
            rest, count = [whole[full:]], count - full
    if count:
        yield np.concatenate(rest)


def _encode(batch: np.ndarray, tokenizer: Tokenizer, size: int, device: Any) -> np.ndarray:
    """Tokens uint16 [N, S] of N frames, encoded among `size`."""
    import torch

    filled = np.pad(batch, ((0, size - len(batch)), *[(0, 0)] * 3)) if len(batch) < size else batch
    return tokenizer.encode(torch.from_numpy(filled).to(device))[: len(batch)].cpu().numpy().astype(np.uint16)


def _tokenize_shard(
    config: TokenizeConfig, source: Manifest, info: ShardInfo, tokenizer: Tokenizer, device: Any, progress: Progress
) -> ShardInfo:
    shard, waiting = Shard(config.out / info.name, info.split), deque[tuple[int, Clip]]()

    def frames() -> Iterator[np.ndarray]:
        for key, clip in _read_ahead(config.clips, source, info, config.workers):
            assert clip.frames is not None
            waiting.append((key, clip))
            yield clip.frames

    try:
        tokens = list[np.ndarray]()
        for batch in _batches(frames(), config.batch_frames):
            try:
                tokens.append(_encode(batch, tokenizer, config.batch_frames, device))
            except ValueError as error:
                problem = f"the tokenizer does not take clip {waiting[0][1].info.episode}: {error}"
                raise UserError(problem, "convert the clips to the size that the tokenizer was trained on") from None
            progress.advance(len(batch), info.name)
            while waiting and sum(map(len, tokens)) >= waiting[0][1].num_frames:
                key, clip = waiting.popleft()
                whole = np.concatenate(tokens)
                marked = dataclasses.replace(clip.info, tokenizer=tokenizer.fingerprint)
                shard.add(key, dataclasses.replace(clip, frames=None, tokens=whole[: clip.num_frames], info=marked))
                tokens = [whole[clip.num_frames :]]
        finished = shard.finish()
        shard.publish()
    finally:
        shard.discard()
    return finished


def _tokenize_share(
    config: TokenizeConfig, source: Manifest, units: Sequence[int], settings: str, tokenizer: Tokenizer, device: Any
) -> None:
    """Work through those of the shards that are not done."""
    todo = [unit for unit in units if read_done(config.out, unit, settings) is None]
    if todo:
        (config.out / "manifest.json").unlink(missing_ok=True)
    total = sum(source.shards[unit].num_frames for unit in units)
    left = sum(source.shards[unit].num_frames for unit in todo)
    progress = Progress("tokenize", total, "frames", total - left)
    for unit in todo:
        made = _tokenize_shard(config, source, source.shards[unit], tokenizer, device, progress)
        write_record(config.out, UnitRecord(unit, made.name, settings, (made,), {}))
    progress.close()


def _finish(config: TokenizeConfig, source: Manifest, records: Sequence[UnitRecord], fingerprint: str) -> None:
    manifest = derive_manifest(records, source.dataset, fingerprint)
    with publish_file(config.out / "stats.json") as temporary:
        shutil.copyfile(config.clips / "stats.json", temporary)
    remove_strangers(config.out, manifest, len(records))
    publish_manifest(config.out, manifest)
    total = sum(shard.num_clips for shard in manifest.shards)
    say(f"{config.out}: {total} clips of {source.dataset}, tokenizer {fingerprint[:12]}")


def tokenize_folder(config: TokenizeConfig, tokenizer: Tokenizer, device: Any, rank: int = 0, ranks: int = 1) -> None:
    """Write the token clips of this process's share of `config.clips`; whoever finds all shares done finishes.

    Raises:
        UserError: `clips` does not hold pixels of the tokenizer's size, one of them is damaged, or the codes do not fit
            the format.
    """
    source, out = read_manifest(config.clips), config.out
    if source.kind != "pixels":
        raise UserError(f"{config.clips} holds tokens of tokenizer {source.tokenizer}", "name a folder of pixel clips")
    if tokenizer.num_codes > np.iinfo(np.uint16).max + 1:
        problem = f"the tokenizer has {tokenizer.num_codes} codes, clips hold at most 65536"
        raise UserError(problem, "train a tokenizer with fewer codes")
    settings = hash_of([FORMAT_VERSION, source.hash, tokenizer.fingerprint, config.batch_frames])
    shares, share = config.tasks * ranks, config.task * ranks + rank
    with FolderLock(out, f"{settings} in {shares} shares", share) as lock:
        _tokenize_share(config, source, range(len(source.shards))[share::shares], settings, tokenizer, device)
        for unit in range(len(source.shards)):  # ranks end together: SLURM kills those that are two minutes behind
            while unit % shares // ranks == config.task and read_done(out, unit, settings) is None:
                time.sleep(0.2)
        found = [read_done(out, unit, settings) for unit in range(len(source.shards))]
        records = [record for record in found if record]
        if left := len(found) - len(records):
            say(f"{out}: share {share} of {shares} is done; {left} of {len(found)} shards are still to be done")
        elif lock.may_finish():  # asked after all records were there, so the one that may finish saw them too
            _finish(config, source, records, tokenizer.fingerprint)


def tokenize(config: TokenizeConfig) -> None:
    """The task: load the exported tokenizer and write `config.out`, with as many processes as were started."""
    import torch
    from accelerate import PartialState

    from whale.models.tokenizer import VideoTokenizer
    from whale.ranks import join

    with join(config.device, config.out) as here:
        for number in ASKING:  # there is nothing to save that is not in a record
            signal.signal(number, signal.SIG_DFL)
        if here.world_size == 1:
            os.environ.pop("LOCAL_RANK", None)  # it would open a process group of one
        device = PartialState(cpu=config.device == "cpu" or not torch.cuda.is_available()).device
        tokenizer = VideoTokenizer.from_pretrained(config.tokenizer).to(device)
        tokenize_folder(config, tokenizer, device, here.rank, here.world_size)

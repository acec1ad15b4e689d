"""The first pass: a row on every record (duplicates.py), from which the split is decided and frozen (split.py).

It reads everything and decodes next to nothing. The rows of an input shard are published as `notes/<unit>.json`, so
that tasks share them and a restart reads only what has none. Once the split is frozen nobody needs them; they are
removed when the conversion is finished, unless there are files to be fetched again.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from whale.clips.clip import FORMAT_VERSION
from whale.clips.codec import most_frames
from whale.clips.manifest import hash_of
from whale.config import to_values
from whale.data_prep.config import ConvertConfig
from whale.data_prep.duplicates import ROW, Known, row_of
from whale.data_prep.episode import SkipEpisodeError, numbers_of, source_of
from whale.data_prep.images import BadImageError
from whale.data_prep.lock import FolderLock
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.oxe.transforms import feature_at
from whale.data_prep.pool import run_jobs
from whale.data_prep.resample import stride_of
from whale.data_prep.source import Episode, InputShard, Source, Unreadable
from whale.data_prep.split import SplitTable, make_table, place_of, read_table, write_table
from whale.errors import UserError
from whale.progress import Progress
from whale.publish import write_json

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Notes:
    """The content of `notes/<unit>.json`."""

    looked_at: str
    """Hash of the input shard and of what was looked at in it."""
    rows: str
    """One `duplicates.ROW` a record, in order, as hexadecimal digits."""
    of_no_use: dict[str, int]
    """Count of records that cannot be used whatever their frames show, by reason in full."""


@dataclasses.dataclass(frozen=True)
class _Job:
    config: ConvertConfig
    spec: DatasetSpec
    source: Source
    shard: InputShard

    @property
    def path(self) -> Path:
        return self.config.out / "notes" / f"{self.shard.unit:05d}.json"

    @property
    def looks_at(self) -> str:
        return hash_of([FORMAT_VERSION, facts_of(self.spec), self.config.camera, self.config.split_seed,
                        of_input(self.shard)])


def facts_of(spec: DatasetSpec) -> dict:
    """What a spec says of the numbers and frames: all but the words for people."""
    words = ("sources", "licence", "embodiment", "versions")
    return {key: value for key, value in to_values(spec).items() if key not in words}


def of_input(shard: InputShard) -> list:
    """What decides what is read of an input shard, and how its records are called."""
    return [shard.name, shard.num_bytes, shard.split, shard.first, shard.num_records]


def _row(job: _Job, episode: Episode) -> np.ndarray:
    """The row of an episode; a SkipEpisodeError when it is of no use."""
    spec, camera = job.spec, job.config.camera
    numbers = numbers_of(episode, spec, camera)
    place = place_of(source_of(episode, spec, job.shard), job.config.split_seed)
    images = feature_at(episode.steps["observation"], camera)
    try:
        return row_of(job.shard.unit, episode.record, place, numbers, images, camera in spec.bgr)
    except BadImageError as error:
        raise SkipEpisodeError(f"undecodable: {error}") from None


def _scan(job: _Job) -> tuple[Notes, bool]:
    """Notes of an input shard, and whether they are new: another task may have published them by now."""
    try:
        notes = TypeAdapter(Notes).validate_json(job.path.read_bytes())
        # It may have been fetched again by now.
        damaged = any(reason.startswith(("unreadable", "undecodable")) for reason in notes.of_no_use)
        if notes.looked_at == job.looks_at and not damaged:
            return notes, False
    except (FileNotFoundError, ValidationError):  # there are none, or those of another version
        pass
    rows, reasons = np.zeros(job.shard.num_records, ROW), Counter[str]()
    rows["unit"], rows["record"] = job.shard.unit, np.arange(len(rows))
    for one in job.source.read(job.shard, [job.config.camera]):
        if isinstance(one, Unreadable):
            reasons[f"unreadable: {one.reason}"] += one.num_records
            continue
        try:
            rows[one.record] = _row(job, one)
        except SkipEpisodeError as reason:
            reasons[str(reason)] += 1
    return Notes(job.looks_at, rows.tobytes().hex(), dict(reasons)), True


def _in_order(config: ConvertConfig, shards: Sequence[InputShard]) -> list[InputShard]:
    """A task's own input shards, then those of the others, in an order of its own: so few are read twice."""
    own = [shard for shard in shards if config.owns(shard.unit)]
    others = [shard for shard in shards if not config.owns(shard.unit)]
    return own + random.Random(config.task).sample(others, len(others))


def _check_lengths(config: ConvertConfig, spec: DatasetSpec, rows: np.ndarray, of_no_use: Counter[str]) -> None:
    """Too short episodes are of no use, so that they are on no side of the split; none may be too long for a clip."""
    frames = np.ceil(rows["num_steps"] / stride_of(spec.control_period_sec, config.control_period_sec))
    short = (frames > 0) & (frames < config.min_frames)
    of_no_use[f"shorter than {config.min_frames} frames"] += int(short.sum())
    rows["num_steps"][short] = 0
    if not rows["num_steps"].any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in (+of_no_use).most_common(_SHOWN))
        raise UserError(f"none of the {len(rows)} episodes of {config.source} can be used: {reasons}",
                        f"correct `spec` or the registry entry {spec.name!r}, or fetch the files again")
    longest = int(frames.max())
    if config.clip_frames is not None:
        longest = min(longest, config.clip_frames)
    if longest > (most := most_frames(config.size_px, config.size_px)):
        raise UserError(f"the longest clip would have {longest} frames of {config.size_px} pixels: too many for one",
                        f"cut the episodes: set `clip_frames` to {most} at most")


def frozen_split(
    pool: ProcessPoolExecutor | None, config: ConvertConfig, spec: DatasetSpec, source: Source, known: Known,
    settings: str, lock: FolderLock,
) -> SplitTable:
    """The table in `split.json`; the first pass makes it where it is missing or of other settings.

    Every task comes to the same table, so none waits for another.

    Raises:
        UserError: no episode can be used, or nothing can be held out.
    """
    if table := read_table(config.out, settings):
        return table
    shards, of_no_use = source.shards, Counter[str]()
    progress = Progress("scan", sum(shard.num_records for shard in shards), "episodes")
    seen: dict[int, np.ndarray] = {}
    jobs = [_Job(config, spec, source, shard) for shard in _in_order(config, shards)]
    for job, (notes, new) in run_jobs(pool, _scan, jobs):
        if new:
            with lock.shared():
                write_json(job.path, dataclasses.asdict(notes))
        seen[job.shard.unit] = np.frombuffer(bytes.fromhex(notes.rows), ROW)
        of_no_use.update(notes.of_no_use)
        progress.advance(len(seen[job.shard.unit]))
    progress.close()
    rows = np.concatenate([seen[shard.unit] for shard in shards])
    _check_lengths(config, spec, rows, of_no_use)
    table = make_table(shards, rows, known, config.val_fraction, settings)
    with lock.shared():
        write_table(config.out, table, rows)
    return table

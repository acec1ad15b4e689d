"""The first pass: notes on every record, from which the split is decided and frozen (split.py).

The notes of an input shard are published as `notes/<unit>.json`, so that tasks share them and a restart reads only what
has none. Once the split is frozen nobody needs them; they are removed when the conversion is finished.
"""

import dataclasses
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from pydantic import TypeAdapter

from whale.clips.clip import FORMAT_VERSION
from whale.clips.manifest import hash_of
from whale.data_prep.config import ConvertConfig
from whale.data_prep.episode import content_hash, source_of
from whale.data_prep.lock import FolderLock
from whale.data_prep.oxe.registry import spec_of
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.pool import run_jobs
from whale.data_prep.source import Episode, InputShard, open_source
from whale.data_prep.split import Seen, SplitTable, make_table, read_table, write_table
from whale.progress import Progress
from whale.publish import write_json


@dataclasses.dataclass(frozen=True)
class Notes:
    """The content of `notes/<unit>.json`."""

    looked_at: str
    """Hash of the input shard and of what was looked at in it."""
    seen: tuple[Seen, ...]
    """One a record, in order."""


@dataclasses.dataclass(frozen=True)
class _Job:
    config: ConvertConfig
    dataset: str
    shard: InputShard

    @property
    def path(self) -> Path:
        return self.config.out / "notes" / f"{self.shard.unit:05d}.json"

    @property
    def looks_at(self) -> str:
        return hash_of([FORMAT_VERSION, self.dataset, self.config.camera, self.shard.name, self.shard.num_bytes])


def _scan(job: _Job) -> tuple[Notes, bool]:
    """Notes of an input shard, and whether they are new: another task may have published them by now."""
    looks_at = job.looks_at
    if job.path.is_file():
        notes = TypeAdapter(Notes).validate_json(job.path.read_bytes())
        if notes.looked_at == looks_at:
            return notes, False
    spec, camera = spec_of(job.dataset), job.config.camera
    found = open_source(job.config.source).read(job.shard, [camera])
    episodes = (one for one in found if isinstance(one, Episode))
    return Notes(looks_at, tuple(Seen(source_of(one, spec), content_hash(one, camera)) for one in episodes)), True


def _in_order(config: ConvertConfig, shards: Sequence[InputShard]) -> list[InputShard]:
    """A task's own input shards, then those of the others, in an order of its own: so few are read twice."""
    own = [shard for shard in shards if config.owns(shard.unit)]
    others = [shard for shard in shards if not config.owns(shard.unit)]
    return own + random.Random(config.task).sample(others, len(others))


def frozen_split(
    pool: ProcessPoolExecutor | None, config: ConvertConfig, spec: DatasetSpec, shards: Sequence[InputShard],
    settings: str, lock: FolderLock,
) -> SplitTable:
    """The table in `split.json`; the first pass makes it where it is missing or of other settings.

    Every task comes to the same table, so none waits for another.

    Raises:
        UserError: an input shard is damaged, or nothing can be held out.
    """
    path = config.out / "split.json"
    if table := read_table(path, settings):
        return table
    progress = Progress("scan", sum(shard.num_records for shard in shards), "episodes")
    seen: dict[int, Sequence[Seen]] = {}
    jobs = [_Job(config, spec.name, shard) for shard in _in_order(config, shards)]
    for job, (notes, new) in run_jobs(pool, _scan, jobs):
        if new:
            with lock.shared():
                write_json(job.path, dataclasses.asdict(notes))
        seen[job.shard.unit] = notes.seen
        progress.advance(len(notes.seen))
    progress.close()
    ordered = [seen[shard.unit] for shard in shards]
    table = make_table(shards, ordered, config.val_fraction, config.split_seed, settings)
    with lock.shared():
        write_table(path, table)
    return table

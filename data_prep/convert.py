"""RLDS to pixel clips, input shard by input shard.

The first pass notes the source and content of every record and freezes the split (scan.py). The second writes clips.
Each input shard is worked through on its own and leaves a record, so any number of workers and tasks and any restart
give the same bytes, and a restart does only what is missing. Tasks share a folder and meet in nothing else: they run at
the same time, on any nodes, or one after the other, none waits for another, and whoever finds all records finishes.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from whale.clips.clip import FORMAT_VERSION
from whale.clips.manifest import UnitRecord, derive_manifest, hash_of, read_done, record_path, write_record
from whale.clips.writer import ShardWriter
from whale.config import to_values
from whale.data_prep.config import ConvertConfig
from whale.data_prep.episode import SkipEpisodeError, source_of, to_clips
from whale.data_prep.finish import finish
from whale.data_prep.lock import FolderLock
from whale.data_prep.oxe.registry import spec_of
from whale.data_prep.pool import open_pool, run_jobs
from whale.data_prep.scan import frozen_split
from whale.data_prep.source import InputShard, Source, Unreadable, open_source
from whale.data_prep.split import SplitTable, record_name
from whale.errors import UserError
from whale.progress import Progress, say


@dataclass(frozen=True)
class _Job:
    """One input shard to write clips of."""

    config: ConvertConfig
    dataset: str
    source: Source
    shard: InputShard
    table: SplitTable


def _convert(job: _Job) -> UnitRecord:
    spec, shard, table = spec_of(job.dataset), job.shard, job.table
    record_path(job.config.out, shard.unit).unlink(missing_ok=True)  # it speaks of shards that are replaced now
    skipped: Counter[str] = Counter()
    with ShardWriter(job.config.out, shard.unit) as writer:
        for episode in job.source.read(shard, [job.config.camera]):
            if isinstance(episode, Unreadable):
                skipped["unreadable"] += episode.num_records
                continue
            if record_name(shard, episode.record) in table.duplicates:
                skipped["duplicate"] += 1
                continue
            split = table.sources[source_of(episode, spec)]
            try:
                for clip in to_clips(episode, spec, job.config, split, shard.name):
                    writer.write(clip)
            except SkipEpisodeError as reason:
                skipped[str(reason)] += 1
    record = UnitRecord(shard.unit, shard.name, table.settings, writer.shards, dict(skipped))
    write_record(job.config.out, record)
    return record


def _settings(config: ConvertConfig, dataset: str, shards: Sequence[InputShard]) -> str:
    values = to_values(config)
    decides = {key: values[key] for key in ("camera", "size_px", "clip_frames", "val_fraction", "split_seed")}
    inputs = [(shard.name, shard.num_bytes) for shard in shards]
    return hash_of([FORMAT_VERSION, dataset, decides, inputs])


def _read_done(config: ConvertConfig, units: Iterable[int], settings: str) -> dict[int, UnitRecord]:
    """Records of those of the units that are done."""
    # Listed first: an NFS client that opens a folder forgets which names were not there a moment ago.
    there = {path.name for path in record_path(config.out, 0).parent.glob("*.json")}
    noted = (unit for unit in units if record_path(config.out, unit).name in there)
    return {unit: record for unit in noted if (record := read_done(config.out, unit, settings))}


def _second_pass(
    pool: ProcessPoolExecutor | None, config: ConvertConfig, dataset: str, source: Source, table: SplitTable,
) -> dict[int, UnitRecord]:
    """Write the clips of this task's input shards; their records, by unit."""
    own = [shard for shard in source.shards if config.owns(shard.unit)]
    records = _read_done(config, (shard.unit for shard in own), table.settings)
    todo = [shard for shard in own if shard.unit not in records]
    if todo:
        (config.out / "manifest.json").unlink(missing_ok=True)
    total = sum(shard.num_records for shard in own)
    done = total - sum(shard.num_records for shard in todo)
    progress = Progress("convert", total, "episodes", done)
    for job, record in run_jobs(pool, _convert, [_Job(config, dataset, source, shard, table) for shard in todo]):
        records[job.shard.unit] = record
        progress.advance(job.shard.num_records, job.shard.name)
    progress.close(f"{len(own) - len(todo)} of {len(own)} input shards were done before" if done else "")
    return records


def convert(config: ConvertConfig) -> None:
    """Write this task's clips to `config.out`, with `split.json`.

    The task that finds the clips of all tasks there adds `stats.json`, `convert_report.json` and `manifest.json`.

    Raises:
        UserError: the source cannot be read, no clip is left on one side, or another process is in the way.
    """
    source = open_source(config.source)
    shards = source.shards
    spec = spec_of(config.dataset or source.dataset)
    if config.camera not in spec.cameras:
        raise UserError(f"{spec.name} has no camera {config.camera!r}", f"choose one of: {', '.join(spec.cameras)}")
    settings = _settings(config, spec.name, shards)
    with FolderLock(config.out, f"{settings} in {config.tasks} tasks", config.task) as lock:
        with open_pool(config.workers) as pool:
            table = frozen_split(pool, config, spec, shards, settings, lock)
            records = _second_pass(pool, config, spec.name, source, table)
        records |= _read_done(config, (shard.unit for shard in shards if shard.unit not in records), settings)
        if left := len(shards) - len(records):
            say(f"{config.out}: task {config.task} of {config.tasks} is done; "
                f"{left} of {len(shards)} input shards are still to be done by other tasks")
        elif not lock.may_finish():  # asked after all records were there, so the one that may finish saw them too
            say(f"{config.out}: task {config.task} of {config.tasks} is done; another one is finishing")
        else:
            manifest = derive_manifest([records[shard.unit] for shard in shards], spec.name, None)
            finish(config, manifest, len(shards), sum(shard.num_records for shard in shards), table)

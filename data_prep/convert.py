"""Recorded episodes to pixel clips, input shard by input shard.

The first pass looks at every record and freezes the split (scan.py). The second writes clips.
Each input shard is worked through on its own and leaves a record, so any number of workers and tasks and any restart
give the same bytes, and a restart does only what is missing. Tasks share a folder and meet in nothing else: they run at
the same time, on any nodes, or one after the other, none waits for another, and whoever finds all records finishes.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from whale.clips.clip import FORMAT_VERSION
from whale.clips.manifest import UnitRecord, hash_of, read_done, record_path, write_record
from whale.clips.writer import ShardWriter
from whale.config import to_values
from whale.data_prep.config import ConvertConfig
from whale.data_prep.duplicates import Known, known_rows
from whale.data_prep.episode import SkipEpisodeError, record_name, source_of, to_clips
from whale.data_prep.files import name_of
from whale.data_prep.finish import finish
from whale.data_prep.lock import FolderLock
from whale.data_prep.oxe.registry import spec_of
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.pool import open_pool, run_jobs, stop_on_signal
from whale.data_prep.scan import facts_of, frozen_split, of_input
from whale.data_prep.source import Episode, InputShard, Source, Unreadable, open_source
from whale.data_prep.split import SplitTable, place_of
from whale.errors import UserError
from whale.progress import Progress, say


@dataclass(frozen=True)
class _Job:
    """One input shard to write clips of."""

    config: ConvertConfig
    spec: DatasetSpec
    source: Source
    shard: InputShard
    val_below: int
    duplicates: dict[int, str]
    """Records to leave out, with what they repeat."""
    settings: str
    """Hash of everything that decides what is written."""


def _job(config: ConvertConfig, spec: DatasetSpec, source: Source, shard: InputShard, table: SplitTable) -> _Job:
    """Its settings hold nothing of other input shards, so that one that was fetched again is written again alone."""
    names = {record: record_name(shard, record) for record in range(shard.num_records)} if table.duplicates else {}
    duplicates = {record: table.duplicates[name] for record, name in names.items() if name in table.duplicates}
    settings = hash_of([*_decisive(config, spec), of_input(shard), table.val_below, sorted(duplicates.items())])
    return _Job(config, spec, source, shard, table.val_below, duplicates, settings)


def _write(job: _Job, episode: Episode, writer: ShardWriter, noted: Counter[str]) -> None:
    """Clips of one episode; a SkipEpisodeError, with nothing written, when it is left out."""
    if episode.record in job.duplicates:
        raise SkipEpisodeError(f"duplicate: of {job.duplicates[episode.record]}")
    place = place_of(source_of(episode, job.spec, job.shard), job.config.split_seed)
    side = "val" if place < job.val_below else "train"
    for clip in to_clips(episode, job.spec, job.config, side, job.shard):
        noted["no instruction"] += clip.info.start == 0 and clip.info.instruction is None
        writer.write(clip)


def _convert(job: _Job) -> UnitRecord:
    shard = job.shard
    record_path(job.config.out, shard.unit).unlink(missing_ok=True)  # it speaks of shards that are replaced now
    left_out: list[tuple[int, int, int | None, str]] = []
    noted = Counter[str]()
    with ShardWriter(job.config.out, shard.unit) as writer:
        for one in job.source.read(shard, [job.config.camera]):
            if isinstance(one, Unreadable):
                left_out.append((one.record, one.num_records, one.offset, f"unreadable: {one.reason}"))
                continue
            try:
                _write(job, one, writer, noted)
            except SkipEpisodeError as skipping:
                left_out.append((one.record, 1, None, str(skipping)))
    skipped = Counter[str]()
    for _, count, _, reason in left_out:
        skipped[reason.partition(":")[0]] += count
    record = UnitRecord(
        shard.unit, shard.name, job.settings, writer.shards, dict(skipped), tuple(left_out), dict(+noted))
    write_record(job.config.out, record)
    return record


def _decisive(config: ConvertConfig, spec: DatasetSpec) -> list:
    """What decides the clips of any episode."""
    values = to_values(config)
    names = ("camera", "size_px", "control_period_sec", "clip_frames", "min_frames", "val_fraction", "split_seed")
    return [FORMAT_VERSION, facts_of(spec), {name: values[name] for name in names}]


def _settings(config: ConvertConfig, spec: DatasetSpec, source: Source, known: Known) -> str:
    held = [hashlib.sha256(rows.tobytes()).hexdigest() for _, rows in known]
    return hash_of([*_decisive(config, spec), held, [of_input(shard) for shard in source.shards]])


def _read_done(config: ConvertConfig, jobs: Iterable[_Job]) -> dict[int, UnitRecord]:
    """The records that are there, of these input shards."""
    there = {path.name for path in record_path(config.out, 0).parent.glob("*.json")}
    noted = (job for job in jobs if record_path(config.out, job.shard.unit).name in there)
    return {job.shard.unit: record for job in noted if (record := read_done(config.out, job.shard.unit, job.settings))}


def _second_pass(pool: ProcessPoolExecutor | None, config: ConvertConfig, own: list[_Job]) -> dict[int, UnitRecord]:
    """Write the clips of this task's input shards; their records, by unit."""
    records = _read_done(config, own)
    todo = [job for job in own if job.shard.unit not in records]
    if todo:
        (config.out / "manifest.json").unlink(missing_ok=True)
    total = sum(job.shard.num_records for job in own)
    done = total - sum(job.shard.num_records for job in todo)
    progress = Progress("convert", total, "episodes", done)
    for job, record in run_jobs(pool, _convert, todo):
        records[job.shard.unit] = record
        progress.advance(job.shard.num_records, job.shard.name)
    progress.close(f"{len(own) - len(todo)} of {len(own)} input shards were done before" if done else "")
    return records


def spec_for(config: ConvertConfig, source: Source) -> DatasetSpec:
    """What is known of the dataset.

    Raises:
        UserError: nothing is, or not of this version or camera.
    """
    spec = config.spec or spec_of(config.dataset or source.dataset)
    version = name_of(config.source)
    if spec.versions and re.fullmatch(r"\d+\.\d+\.\d+", version) and version not in spec.versions:
        raise UserError(f"the entry {spec.name!r} does not hold for version {version}",
                        f"fetch version {' or '.join(spec.versions)}, or describe this one by `spec`")
    if config.camera not in spec.cameras:
        raise UserError(f"{spec.name} has no camera {config.camera!r}", f"choose one of: {', '.join(spec.cameras)}")
    return spec


def convert_with(config: ConvertConfig, pool: ProcessPoolExecutor | None) -> int | None:
    """`convert` in worker processes that are there already, or here."""
    source = open_source(config.source, config.reader)
    spec, known = spec_for(config, source), known_rows(config.known)
    settings = _settings(config, spec, source, known)
    with FolderLock(config.out, f"{settings} in {config.tasks} tasks", config.task) as lock:
        table = frozen_split(pool, config, spec, source, known, settings, lock)
        jobs = [_job(config, spec, source, shard, table) for shard in source.shards]
        records = _second_pass(pool, config, [job for job in jobs if config.owns(job.shard.unit)])
        records |= _read_done(config, (job for job in jobs if job.shard.unit not in records))
        if left := len(jobs) - len(records):
            say(f"{config.out}: task {config.task} of {config.tasks} is done; "
                f"{left} of {len(jobs)} input shards are still to be done by other tasks")
        elif not lock.may_finish():  # asked after all records were there, so the one that may finish saw them too
            say(f"{config.out}: task {config.task} of {config.tasks} is done; another one is finishing")
        else:
            return finish(config, spec, [records[shard.unit] for shard in source.shards], source.shards, table)
    return None


def convert(config: ConvertConfig) -> int | None:
    """Write this task's clips to `config.out`, with `split.json` and `episodes.npy`.

    The task that finds the clips of all tasks there adds `stats.json`, `convert_report.json`, `quarantine.json` and
    `manifest.json`; it returns 1 when there were more unreadable episodes than `max_unreadable`.

    Raises:
        UserError: the source cannot be read, no clip is left on one side, or another process is in the way.
        StoppedError: a signal came.
    """
    with stop_on_signal(), open_pool(config.workers) as pool:
        return convert_with(config, pool)

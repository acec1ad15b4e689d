"""RLDS to pixel clips, input shard by input shard.

The first pass notes the source and content of every record and freezes the split (split.py). The second writes clips.
Each input shard is worked through on its own and leaves a record, so any number of workers and any restart give the
same bytes, and a restart does only what is missing.
"""

import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

from whale.clips.clip import FORMAT_VERSION
from whale.clips.manifest import (
    SPLITS,
    Manifest,
    UnitRecord,
    derive_manifest,
    hash_of,
    is_done,
    write_manifest,
    write_record,
)
from whale.clips.stats import write_stats
from whale.clips.writer import ShardWriter
from whale.config import to_values
from whale.data_prep.config import ConvertConfig
from whale.data_prep.episode import SkipEpisodeError, content_hash, source_of, to_clips
from whale.data_prep.folder import clear, remove_strangers
from whale.data_prep.oxe.registry import spec_of
from whale.data_prep.pool import open_pool, run_jobs
from whale.data_prep.rlds import InputShard, open_rlds, read_episodes
from whale.data_prep.split import Seen, SplitTable, make_table, read_table, record_name, write_table
from whale.errors import UserError
from whale.progress import Progress
from whale.publish import write_json


@dataclass(frozen=True)
class _Job:
    """One input shard to work through; `table` is None in the first pass."""

    config: ConvertConfig
    dataset: str
    shard: InputShard
    table: SplitTable | None


def _scan(job: _Job) -> list[Seen]:
    spec = spec_of(job.dataset)
    episodes = read_episodes(job.shard, [job.config.camera])
    return [Seen(source_of(episode, spec), content_hash(episode, job.config.camera)) for episode in episodes]


def _convert(job: _Job) -> UnitRecord:
    spec, shard, table = spec_of(job.dataset), job.shard, job.table
    assert table is not None
    skipped: Counter[str] = Counter()
    with ShardWriter(job.config.out, shard.unit) as writer:
        for episode in read_episodes(shard, [job.config.camera]):
            if record_name(shard, episode.record) in table.duplicates:
                skipped["duplicate"] += 1
                continue
            split = table.sources[source_of(episode, spec)]
            try:
                for clip in to_clips(episode, spec, job.config, split, shard.path.name):
                    writer.write(clip)
            except SkipEpisodeError as reason:
                skipped[str(reason)] += 1
    record = UnitRecord(shard.unit, shard.path.name, table.settings, writer.shards, dict(skipped))
    write_record(job.config.out, record)
    return record


def _settings(config: ConvertConfig, dataset: str, shards: Sequence[InputShard]) -> str:
    values = to_values(config)
    decides = {key: values[key] for key in ("camera", "size_px", "clip_frames", "val_fraction", "split_seed")}
    inputs = [(shard.path.name, shard.path.stat().st_size) for shard in shards]
    return hash_of([FORMAT_VERSION, dataset, decides, inputs])


def _first_pass(
    pool: ProcessPoolExecutor | None, config: ConvertConfig, dataset: str, shards: Sequence[InputShard], settings: str
) -> SplitTable:
    progress = Progress("scan", sum(shard.num_records for shard in shards), "episodes")
    seen: dict[int, list[Seen]] = {}
    jobs = [_Job(config, dataset, shard, None) for shard in shards]
    for job, notes in run_jobs(pool, _scan, jobs):
        seen[job.shard.unit] = notes
        progress.advance(len(notes))
    progress.close()
    ordered = [seen[shard.unit] for shard in shards]
    table = make_table(shards, ordered, config.val_fraction, config.split_seed, settings)
    write_table(config.out / "split.json", table)
    return table


def _second_pass(
    pool: ProcessPoolExecutor | None, config: ConvertConfig, dataset: str, shards: Sequence[InputShard],
    table: SplitTable,
) -> None:
    todo = [shard for shard in shards if not is_done(config.out, shard.unit, table.settings)]
    total = sum(shard.num_records for shard in shards)
    done = total - sum(shard.num_records for shard in todo)
    progress = Progress("convert", total, "episodes", done)
    jobs = [_Job(config, dataset, shard, table) for shard in todo]
    for job, _ in run_jobs(pool, _convert, jobs):
        progress.advance(job.shard.num_records, job.shard.path.name)
    progress.close(f"{len(shards) - len(todo)} of {len(shards)} input shards were done before" if done else "")


def _check_result(config: ConvertConfig, manifest: Manifest) -> None:
    """Both splits must have clips; when all episodes of a side were skipped, say why."""
    for split in SPLITS:
        if not manifest.of_split(split):
            clear(config.out)
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(manifest.skipped.items()))
            problem = f"no {split} clip is left of {config.source}: skipped {reasons}"
            raise UserError(problem, "choose another `camera` or `split_seed`, or convert more of the dataset")


def _report(config: ConvertConfig, manifest: Manifest, table: SplitTable, num_episodes: int) -> dict[str, Any]:
    splits = {}
    for split in SPLITS:
        shards = manifest.of_split(split)
        splits[split] = {
            "sources": sum(side == split for side in table.sources.values()),
            "clips": sum(shard.num_clips for shard in shards),
            "frames": sum(shard.num_frames for shard in shards),
        }
    duplicates = [f"{name} duplicates {original}" for name, original in table.duplicates.items()]
    return {
        "source": str(config.source), "dataset": manifest.dataset, "episodes": num_episodes, "splits": splits,
        "skipped": manifest.skipped, "findings": list(table.same_records), "duplicates": duplicates,
        "manifest": manifest.hash,
    }


def _show(report: dict[str, Any]) -> str:
    lines = [f"{report['dataset']}: {report['episodes']} episodes"]
    for split, sums in report["splits"].items():
        lines.append(f"  {split:<5} {sums['clips']} clips, {sums['frames']} frames from {sums['sources']} sources")
    lines += [f"  skipped: {count} {reason}" for reason, count in sorted(report["skipped"].items())]
    lines += [f"  note: {finding}" for finding in report["findings"]]
    shown = report["duplicates"][:5]
    lines += [f"  {line}" for line in shown]
    if len(report["duplicates"]) > len(shown):
        lines.append(f"  and {len(report['duplicates']) - len(shown)} more in convert_report.json")
    return "\n".join(lines) + "\n"


def convert(config: ConvertConfig) -> dict[str, Any]:
    """Write `config.out`: clips, `split.json`, `stats.json`, `manifest.json`, `convert_report.json`; returns the last.

    Raises:
        UserError: the source cannot be read, or no clip is left on one side.
    """
    found, shards = open_rlds(config.source)
    spec = spec_of(config.dataset or found)
    if config.camera not in spec.cameras:
        raise UserError(f"{spec.name} has no camera {config.camera!r}", f"choose one of: {', '.join(spec.cameras)}")
    settings = _settings(config, spec.name, shards)
    table = read_table(config.out / "split.json", settings)
    with open_pool(config.workers) as pool:
        table = table or _first_pass(pool, config, spec.name, shards, settings)
        (config.out / "manifest.json").unlink(missing_ok=True)
        _second_pass(pool, config, spec.name, shards, table)
    manifest = derive_manifest(config.out, spec.name, None, len(shards))
    _check_result(config, manifest)
    write_stats(config.out, manifest)
    remove_strangers(config.out, manifest, len(shards))
    write_manifest(config.out, spec.name, None, len(shards))
    report = _report(config, manifest, table, sum(shard.num_records for shard in shards))
    write_json(config.out / "convert_report.json", report)
    sys.stdout.write(_show(report))
    return report

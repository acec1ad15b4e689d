"""The end of a conversion, once all its input shards are done: statistics, the report, and the manifest last of all."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whale.clips.manifest import SPLITS, Manifest, UnitRecord, derive_manifest, publish_manifest, read_manifest
from whale.clips.stats import write_stats
from whale.data_prep.config import ConvertConfig
from whale.data_prep.folder import clear, remove_notes, remove_strangers
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.source import InputShard
from whale.data_prep.split import SplitTable
from whale.errors import UserError
from whale.publish import write_json

_DERIVED = ("stats.json", "convert_report.json", "quarantine.json")
_UNREADABLE = ("unreadable", "undecodable")
"""Reasons that speak of damage, where others speak of what is recorded."""
_SHOWN = 5


def _check_result(config: ConvertConfig, manifest: Manifest) -> None:
    """Both splits must have clips; when all episodes of a side were skipped, say why."""
    for split in SPLITS:
        if not manifest.of_split(split):
            clear(config.out)
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(manifest.skipped.items()))
            problem = f"no {split} clip is left of {config.source}: skipped {reasons}"
            raise UserError(problem, "choose another `camera` or `split_seed`, or convert more of the dataset")


def _quarantine(records: Sequence[UnitRecord]) -> list[dict[str, Any]]:
    """Every episode that was left out, in order."""
    return [
        {"file": record.source, "unit": record.unit, "record": first, "num_records": count, "offset": offset,
         "reason": reason}
        for record in records for first, count, offset, reason in record.left_out
    ]


def _report(
    config: ConvertConfig, manifest: Manifest, records: Sequence[UnitRecord], table: SplitTable, num_episodes: int
) -> dict[str, Any]:
    splits = {}
    for split in SPLITS:
        shards = manifest.of_split(split)
        splits[split] = {
            "sources": table.sources[split],
            "clips": sum(shard.num_clips for shard in shards),
            "frames": sum(shard.num_frames for shard in shards),
        }
    noted = sum((Counter(record.noted) for record in records), Counter[str]())
    return {
        "source": config.source, "dataset": manifest.dataset, "episodes": num_episodes, "splits": splits,
        "skipped": manifest.skipped, "noted": dict(noted), "findings": list(table.same_records),
        "manifest": manifest.hash,
    }


def _show(config: ConvertConfig, report: dict[str, Any], left_out: list[dict[str, Any]], unreadable: int) -> str:
    lines = [f"{report['dataset']}: {report['episodes']} episodes"]
    for split, sums in report["splits"].items():
        lines.append(f"  {split:<5} {sums['clips']} clips, {sums['frames']} frames from {sums['sources']} sources")
    lines += [f"  skipped: {count} {reason}" for reason, count in sorted(report["skipped"].items())]
    lines += [f"  {count} with {lack}" for lack, count in sorted(report["noted"].items())]
    lines += [f"  note: {finding}" for finding in report["findings"]]
    lines += [f"  {one['file']} record {one['record']}: {one['reason']}" for one in left_out[:_SHOWN]]
    if len(left_out) > _SHOWN:
        lines.append(f"  and {len(left_out) - _SHOWN} more in quarantine.json")
    if unreadable > config.max_unreadable:
        units = sorted({one["unit"] for one in left_out if one["reason"].startswith(_UNREADABLE)})
        shown = ", ".join(f"records/{unit:05d}.json" for unit in units[:_SHOWN]) + ("..." if units[_SHOWN:] else "")
        lines += [f"  {unreadable} episodes cannot be read, `max_unreadable` allows {config.max_unreadable}: fetch",
                  f"  their files again, remove split.json and {shown}, and run the same command"]
    return "\n".join(lines) + "\n"


def _is_finished(folder: Path, manifest: Manifest, damaged: bool) -> bool:
    """Whether another task, or an earlier run, came to the end."""
    if ((folder / "notes").exists() and not damaged) or not all((folder / name).is_file() for name in _DERIVED):
        return False
    try:
        return read_manifest(folder) == manifest
    except UserError:  # there is none, or it is damaged
        return False


def finish(
    config: ConvertConfig, spec: DatasetSpec, records: Sequence[UnitRecord], shards: Sequence[InputShard],
    table: SplitTable,
) -> int | None:
    """Write what is derived from the records of all input shards, and show the report.

    Returns 1 when more episodes than `max_unreadable` could not be read.

    Raises:
        UserError: no clip is left on one side.
    """
    manifest = derive_manifest(records, spec.name, None)
    _check_result(config, manifest)
    left_out = _quarantine(records)
    report = _report(config, manifest, records, table, sum(shard.num_records for shard in shards))
    # What lies behind the last record stands for none, but is damage too.
    unreadable = sum(max(1, one["num_records"]) for one in left_out if one["reason"].startswith(_UNREADABLE))
    damaged = unreadable > config.max_unreadable
    if not _is_finished(config.out, manifest, damaged):
        write_stats(config.out, manifest, spec.embodiment, spec.licence)
        remove_strangers(config.out, manifest, len(shards))
        write_json(config.out / "convert_report.json", report)
        write_json(config.out / "quarantine.json", {"episodes": left_out})
        if not damaged:  # else some files will be fetched and read again, and only those
            remove_notes(config.out)
        publish_manifest(config.out, manifest)
    sys.stdout.write(_show(config, report, left_out, unreadable))
    return 1 if damaged else None

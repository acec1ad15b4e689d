"""The end of a conversion, once all its input shards are done: statistics, the report, and the manifest last of all."""

import sys
from pathlib import Path
from typing import Any

from whale.clips.manifest import SPLITS, Manifest, publish_manifest, read_manifest
from whale.clips.stats import write_stats
from whale.data_prep.config import ConvertConfig
from whale.data_prep.folder import clear, remove_strangers
from whale.data_prep.split import SplitTable
from whale.errors import UserError
from whale.publish import write_json


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


def _is_finished(folder: Path, manifest: Manifest) -> bool:
    """Whether another task, or an earlier run, came to the end."""
    if not all((folder / name).is_file() for name in ("stats.json", "convert_report.json")):
        return False
    try:
        return read_manifest(folder) == manifest
    except UserError:  # there is none, or it is damaged
        return False


def finish(config: ConvertConfig, manifest: Manifest, num_units: int, num_episodes: int, table: SplitTable) -> None:
    """Write what is derived from all input shards, and show the report.

    Raises:
        UserError: no clip is left on one side.
    """
    _check_result(config, manifest)
    report = _report(config, manifest, table, num_episodes)
    if not _is_finished(config.out, manifest):
        write_stats(config.out, manifest)
        remove_strangers(config.out, manifest, num_units)
        write_json(config.out / "convert_report.json", report)
        publish_manifest(config.out, manifest)
    sys.stdout.write(_show(report))

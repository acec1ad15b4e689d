"""The audit's page: one self-contained HTML file, drawn by `templates/audit.html.j2` from facts and findings."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whale.actions import ACTION_NAMES
from whale.data_prep.audit_actions import fits
from whale.data_prep.audit_facts import EpisodeFacts
from whale.data_prep.audit_motion import AS_SPEC
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.source import InputShard
from whale.publish import publish_file
from whale.runtime import commit

BINS = 31
MAX_COLUMNS = 14
"""Columns of the recorded action that are drawn."""


def write_page(path: Path, report: dict[str, Any], facts: Sequence[EpisodeFacts], spec: DatasetSpec,
               shards: Sequence[InputShard]) -> Path:
    """Publish the page at `path`, and return it."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    splits = {shard.split: 0 for shard in shards}
    for shard in shards:
        splits[shard.split] += shard.num_records
    context = {
        "report": report, "spec": spec, "splits": splits, "num_shards": len(shards), "commit": commit(),
        "num_bytes": sum(shard.num_bytes for shard in shards), "steps": [one.length for one in facts],
        "film": _film(facts), "cameras": _cameras(facts),
        "recorded": _histograms([one.recorded for one in facts]),
        "canonical": _histograms([dict(zip(ACTION_NAMES, one.actions.T, strict=True)) for one in facts]),
        "tracks": _tracks(facts),
        "fits": {label: fits(facts, part).get(AS_SPEC)
                 for label, part in (("translation", slice(0, 3)), ("rotation", slice(3, 6)))},
    }
    with publish_file(path) as temporary:
        temporary.write_text(environment.get_template("audit.html.j2").render(context), encoding="utf-8")
    return path


def _film(facts: Sequence[EpisodeFacts]) -> list[dict[str, Any]]:
    """Episodes with thumbnails: their names, and for each camera three pictures as data URIs."""
    return [
        {"name": one.name, "steps": one.length, "cameras": {
            camera: [f"data:image/jpeg;base64,{base64.b64encode(thumb).decode()}" for thumb in look.thumbs]
            for camera, look in one.cameras.items() if look.thumbs}}
        for one in facts if any(look.thumbs for look in one.cameras.values())
    ]


def _cameras(facts: Sequence[EpisodeFacts]) -> dict[str, dict[str, Any]]:
    """Numbers of each camera over all episodes."""
    found = {}
    for camera in facts[0].cameras if facts else ():
        looks = [one.cameras[camera] for one in facts]
        change = np.concatenate([look.change for look in looks])
        found[camera] = {
            "warmth": np.median([look.warmth for look in looks]), "peak": np.median([look.peak for look in looks]),
            "change": np.percentile(change, [5, 50, 95]) if len(change) else None,
        }
    return found


def _histograms(columns: Sequence[dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Counts of each column over its own range, heights 0 to 1; square roots, so that rare values are seen too."""
    found = []
    for name in [*dict.fromkeys(name for one in columns for name in one)][:MAX_COLUMNS]:
        values = np.concatenate([one[name] for one in columns if name in one])
        values = values[np.isfinite(values)]
        if len(values):
            counts, _ = np.histogram(values, bins=BINS)
            found.append({"name": name, "low": values.min(), "high": values.max(), "mean": values.mean(),
                          "std": values.std(), "heights": np.sqrt(counts / counts.max())})
    return found


def _tracks(facts: Sequence[EpisodeFacts]) -> list[dict[str, Any]]:
    """Of a few episodes, position along each axis: measured, and commanded motion integrated from where it starts."""
    kept = [one for one in facts if AS_SPEC in one.readings and not one.not_finite and len(one.position) > 2]
    drawn = []
    for one in kept[:: max(1, len(kept) // 3)][:3]:
        commanded, measured = (np.cumsum(np.pad(x[:, :3], ((1, 0), (0, 0))), 0) for x in one.readings[AS_SPEC])
        both = np.concatenate([commanded, measured])
        low, span = both.min(), max(np.ptp(both), 1e-9)
        x = np.linspace(0, 100, len(commanded))

        def line(values: np.ndarray, x: np.ndarray = x, low: float = low, span: float = span) -> str:
            return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, 60 - 60 * (values - low) / span, strict=True))

        drawn.append({"name": one.name, "low": low, "high": low + span, "steps": one.length,
                      "axes": [(line(measured[:, k]), line(commanded[:, k])) for k in range(3)]})
    return drawn

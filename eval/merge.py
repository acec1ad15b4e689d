"""Merges the results of the evaluation tasks into `results.json`, from which alone the report is made."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from whale.config import to_values
from whale.errors import UserError
from whale.eval.config import FinetuneConfig, ReportConfig
from whale.eval.fidelity import mean_figure
from whale.eval.results import SCHEMA_VERSION, Figure, read_figures, read_media, read_result
from whale.publish import write_json
from whale.runtime import environment


def merge(config: ReportConfig) -> list[Figure]:
    """Write `<out>/results.json`; returns its figures.

    Raises:
        UserError: a part or one of its media is missing or of another kind, or two parts hold a figure of one name.
    """
    parts = [_read_part(path, config.out) for path in config.parts]
    figures = [figure for part in parts for figure in read_figures(part["figures"])]
    comparison = _compare(config.finetune, config.seed) if config.finetune else None
    if comparison:
        figures.append(comparison.pop("figure"))
    names = [figure.name for figure in figures]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two of the parts hold a figure {name!r}", "report one result of each task at a time")
    results = {
        "schema": SCHEMA_VERSION,
        "task": "report",
        "title": config.title,
        "config": to_values(config),
        "environment": environment(),
        "figures": [figure.record() for figure in figures],
        "parts": parts,
        "finetune": comparison,
        "budget": _read_budget(config.budget) if config.budget else None,
    }
    write_json(config.out / "results.json", results)
    return figures


def _read_part(path: Path, out: Path) -> dict[str, Any]:
    """A part, with its hash, and its media found from `out`."""
    part = read_result(path)
    for entry in part.get("media", []):
        read_media(path.parent, entry)  # a file that is missing or another is told before anything is written
        entry["path"] = os.path.relpath(path.parent / entry["path"], out)
    return part | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _compare(config: FinetuneConfig, seed: int) -> dict[str, Any]:
    """The gain of adaptation over training from scratch, episode by episode at the judged horizon."""
    finetuned, scratch = read_result(config.finetuned, "fidelity"), read_result(config.scratch, "fidelity")
    for key in ("data_manifest_hash", "per_episode.episodes", "curves.horizons", "config.judge_horizon"):
        if _at(finetuned, key) != _at(scratch, key):
            raise UserError(f"{config.finetuned} and {config.scratch} differ in {key}",
                            "score both models with one configuration on the same clips")  # fmt: skip
    k = finetuned["curves"]["horizons"].index(finetuned["config"]["judge_horizon"])
    at_k = [np.array(part["per_episode"]["psnr"]["model"], float)[:, k] for part in (finetuned, scratch)]
    gain = mean_figure("finetune_psnr_gain_over_scratch", at_k[0] - at_k[1], "dB", seed)
    kept = ("task", "name", "checkpoint_hash", "tokenizer_fingerprint", "data_manifest_hash", "config", "samples",
            "figures", "curves")  # fmt: skip
    return {
        "figure": Figure(gain.name, gain.value, gain.low, gain.high, gain.unit, gain.n, config.need),
        "finetuned": {key: finetuned[key] for key in kept},
        "scratch": {key: scratch[key] for key in kept},
    }


def _at(values: dict[str, Any], dotted: str) -> Any:
    for key in dotted.split("."):
        values = values[key]
    return values


def _read_budget(path: Path) -> list[dict[str, Any]]:
    """Rows {"stage", "seconds"} of {"install_sec", "stages": [{"command", "seconds", ...}]}."""
    if not path.is_file():
        raise UserError(f"there is no budget file {path}", "run demo.sh, which writes it, or set budget=null")
    try:
        values = json.loads(path.read_text())
        rows = [("install", values["install_sec"])] + [(row["command"], row["seconds"]) for row in values["stages"]]
        return [{"stage": str(stage), "seconds": float(seconds)} for stage, seconds in rows]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} holds no stage timings", "run demo.sh, which writes it, again") from None

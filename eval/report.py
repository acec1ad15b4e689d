"""The report: one self-contained HTML page and a picture, made from `results.json` and the media it lists alone."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from whale.eval import plots
from whale.eval.fidelity import SERIES
from whale.eval.media import GAP_PX
from whale.eval.results import Figure, bound, read_figures, read_media, read_result
from whale.publish import publish_file

MEANINGS = {
    r"psnr_gain_over_copy_h(\d+)": "imagined frames over repeating the last given frame, {} frames ahead",
    r"psnr_gain_over_action_blind_h(\d+)": "imagined frames over those of the action-blind twin, {} frames ahead",
    r"ce_gain_over_copy_h(\d+)": "nats a token less than repeating the last given frame's tokens, {} frames ahead",
    r"ce_gain_over_action_blind_h(\d+)": "nats a token less than the action-blind twin, {} frames ahead",
    r"ce_gain_over_action_blind": "nats a token less than the action-blind twin, at the judged horizon",
    r"psnr_below_ceiling_h(\d+)": "imagined frames below the tokenizer's own reconstruction, {} frames ahead",
    r"action_following_psnr": "true actions over another episode's actions",
    r"token_flip_rate": "tokens that change where no pixel of their patch does",
    r"psnr_h(\d+)": "PSNR of imagined frames, {} ahead",
    r"ssim_h(\d+)": "SSIM of imagined frames, {} ahead",
    r"token_accuracy_h(\d+)": "imagined tokens equal to those of the recorded frame, {} ahead",
    r"token_accuracy_copy_h(\d+)": "the same, repeating the last given frame's tokens",
    r"value_pearson": "imagined against true values of the policies, linear correlation",
    r"value_spearman": "imagined against true values of the policies, rank correlation",
    r"value_pearson_per_start": "the correlation from one start state, averaged",
    r"value_pearson_actions_only": "null baseline: a regression that sees the true run's actions and no frame",
    r"mmrv": "mean maximum rank violation, 0 is best",
    r"regret_at_1": "lost by choosing the policy that imagination likes best",
    r"value_gap": "mean distance between imagined and true value",
    r"value_gap_normalised": "the value gap over the range of the true values",
    r"auroc_retracing_over_(\w+)": "AUROC of retracing minus that of {}",
    r"auroc_(\w+)_p90": "wrong frames told by {}: errors above the 90th percentile at their step",
    r"auroc_(\w+)": "wrong frames told by {}: errors above the median at their step",
    r"calibration_ece": "expected against true errors of imagined frames",
    r"finetune_psnr_gain_over_scratch": "adapted over trained from scratch, on the same demonstrations and episodes",
}
METRICS = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "cross_entropy": ("token cross-entropy, nats", 3)}
"""The curves that are drawn: label, and decimals in tables."""
VALUE_NAMES = ("value_pearson", "value_spearman", "value_pearson_per_start", "mmrv", "regret_at_1", "value_gap",
               "value_gap_normalised")  # fmt: skip
SIGNAL_COLUMNS = {
    "AUROC, above the median": "auroc_{}", "AUROC, above the 90th percentile": "auroc_{}_p90",
    "AUROC, signal of the step alone": "auroc_{}_step", "rank correlation": "spearman_{}",
    "risk-coverage area": "risk_coverage_area_{}", "AUROC pooled over steps": "auroc_pooled_{}",
}  # fmt: skip
"""Of the table of signals: heading, and name of the figure."""


def write_report(out: Path) -> Path:
    """Make `<out>/report.html`, and `<out>/picture.png` where there is a strip; returns the page's path.

    Raises:
        UserError: `<out>/results.json` is missing or of another kind, or a file it lists is missing or another.
    """
    import jinja2

    results = read_result(out / "results.json", "report")
    parts = {part["task"]: part for part in results["parts"]}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = read_figures(results["figures"])
    context = {
        "title": results["title"],
        "held": [_row(figure) for figure in figures if figure.need is not None],
        "free": [_row(figure) for figure in figures if figure.need is None and not _shown_elsewhere(figure)],
        "fidelity": _fidelity(parts["fidelity"], out) if "fidelity" in parts else None,
        "value": _value(parts["value"], figures) if "value" in parts else None,
        "uncertainty": _uncertainty(parts["uncertainty"], out) if "uncertainty" in parts else None,
        "finetune": _finetune(results["finetune"], figures) if results["finetune"] else None,
        "budget": results["budget"],
        "settings": [_settings(part) for part in (*results["parts"], *_sides(results))],
        "environment": results["environment"],
    }
    page = out / "report.html"
    with publish_file(page) as temporary:
        temporary.write_text(environment.get_template("report.html.j2").render(context), encoding="utf-8")
    if "fidelity" in parts:
        _write_picture(parts["fidelity"], out)
    return page


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _svg_uri(content: bytes) -> str:
    return _data_uri("svg+xml", content)


def meaning(name: str) -> str:
    """A figure's name in words, empty for one that is not known here."""
    for pattern, words in MEANINGS.items():
        match = re.fullmatch(pattern, name.removesuffix("_undertrained"))
        if match:
            return words.format(*match.groups())
    return ""


def _row(figure: Figure) -> dict[str, Any]:
    """A line of a table of figures, with the places of interval, value and need on a small scale from 0 to 100."""
    row = {
        "name": figure.name,
        "meaning": meaning(figure.name),
        "value": _number(figure.value),
        "interval": f"{_number(figure.low)} to {_number(figure.high)}",
        "unit": figure.unit,
        "n": figure.n,
        "need": bound(figure.need),
        "holds": figure.holds,
    }
    marks = [figure.low, figure.high, figure.value, *(figure.need or {}).values()]
    low, span = min(marks), (max(marks) - min(marks)) or 1.0

    def place(value: float) -> float:
        return round(6 + 88 * (value - low) / span, 2)

    scale = {key: place(getattr(figure, key)) for key in ("low", "high", "value")}
    return row | {"scale": scale | {"needs": [place(value) for value in (figure.need or {}).values()]}}


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _shown_elsewhere(figure: Figure) -> bool:
    """Whether the tables of curves or of values show it."""
    name = figure.name.removesuffix("_undertrained")
    in_tables = r"(psnr|ssim)_h\d+|(auroc|spearman|risk_coverage_area|calibration)_\w+"
    return name in (*VALUE_NAMES, "value_pearson_actions_only") or bool(re.fullmatch(in_tables, name))


def _fidelity(part: dict[str, Any], out: Path) -> dict[str, Any]:
    curves, horizons = part["curves"], part["curves"]["horizons"]
    shown: dict[str, dict[str, Any]] = {}
    for entry in part["media"]:
        kind = {"strip": "png", "animation": "webp"}[entry["kind"]]
        episode = shown.setdefault(entry["episode"], dict(entry))
        episode[entry["kind"]] = _data_uri(kind, read_media(out, entry))
        episode["horizons"] = entry.get("horizons", episode.get("horizons"))
    styles = {name: (plots.STYLES[name]["label"], plots.STYLES[name]["color"]) for name in SERIES}
    counts = curves["psnr"]["model"]["n"]
    tables = [
        (label, decimals, [(*style, [f"{x:.{decimals}f}" for x in curves[metric][key]["mean"]])
                           for key, style in styles.items() if key in curves[metric]])
        for metric, (label, decimals) in METRICS.items() if metric in curves
    ]  # fmt: skip
    return {
        "part": part,
        "episodes": list(shown.values()),
        "plots": [(label, _svg_uri(plots.horizon_curves(curves[metric], horizons, label)))
                  for metric, (label, _) in METRICS.items() if metric in curves],
        "tables": tables,
        "counts": str(counts[0]) if len(set(counts)) == 1 else f"{', '.join(map(str, counts))} at these horizons",
    }


def _value(part: dict[str, Any], figures: list[Figure]) -> dict[str, Any]:
    returns = {name: np.array(values, float) for name, values in part["returns"].items()}
    true, shown = returns["true"], {"model": ("this model", "#0072b2"), "undertrained": ("undertrained", "#7b8794")}
    shown = {name: style for name, style in shown.items() if name in returns}
    means = np.concatenate([returns[name].mean(1) for name in ("true", *shown)])
    margin = 0.06 * float(np.ptp(means)) + 1e-6
    limits = (float(means.min()) - margin, float(means.max()) + margin)
    by_name = {figure.name: figure for figure in figures}
    columns = ["model", *(["undertrained"] if "undertrained" in shown else []), "actions only"]
    suffixes = {"model": "", "undertrained": "_undertrained", "actions only": "_actions_only"}
    rows = []
    for name in VALUE_NAMES:
        found = [by_name.get(name + suffixes[column]) for column in columns]
        rows.append((name, meaning(name), [figure and _row(figure) for figure in found]))
    order = np.argsort(-true.mean(1))
    policies = [
        {"name": part["policies"][i], "success": f"{part['success'][i]:.0%}", "true": f"{true[i].mean():.2f}",
         "imagined": [f"{returns[name][i].mean():.2f}" for name in shown]}
        for i in order
    ]  # fmt: skip
    return {
        "part": part,
        "scatters": [
            _svg_uri(plots.value_scatter(part["policies"], true, returns[name], title, colour, limits))
            for name, (title, colour) in shown.items()
        ],
        "columns": columns,
        "rows": rows,
        "policies": policies,
        "policy_columns": [title for title, _ in shown.values()],
    }


def _uncertainty(part: dict[str, Any], out: Path) -> dict[str, Any]:
    curves, figures = part["curves"], {figure.name: _row(figure) for figure in read_figures(part["figures"])}
    chance = {"chance": {key: [0.5] * len(curves["steps"]) for key in ("mean", "low", "high")}}
    label = "AUROC, errors above the median"
    drawn = [(label, plots.horizon_curves(curves["auroc"] | chance, curves["steps"], label))]
    if "calibration" in part:
        drawn.append(("reliability", plots.reliability(part["calibration"]["bins"])))
    names = list(dict.fromkeys(match[1] for name in figures if (match := re.fullmatch(r"auroc_(\w+)_p90", name))))
    names = [name for name in names if not name.endswith("_step") and "_over_" not in name] + ["step_index", "oracle"]
    rows = [(name, plots.STYLES.get(name, {}), [figures.get(form.format(name)) for form in SIGNAL_COLUMNS.values()])
            for name in names]  # fmt: skip
    rows.sort(key=lambda row: row[0] not in curves["auroc"])  # the judged ones first, then their variants
    return {
        "part": part,
        "strips": [(entry, _data_uri("png", read_media(out, entry))) for entry in part["media"]],
        "plots": [(label, _svg_uri(svg)) for label, svg in drawn],
        "columns": list(SIGNAL_COLUMNS),
        "rows": rows,
        "gains": [(style["label"], [figures[f"{name}{suffix}"] for suffix in ("", "_p90")])
                  for rival, style in plots.STYLES.items() if (name := f"auroc_retracing_over_{rival}") in figures],
        "figures": figures,
    }


def _finetune(comparison: dict[str, Any], figures: list[Figure]) -> dict[str, Any]:
    sides = {name: comparison[name]["curves"] for name in ("finetuned", "scratch")}
    curves = {name: side["psnr"]["model"] for name, side in sides.items()}
    curves["copy"] = sides["finetuned"]["psnr"]["copy"]
    horizons = sides["finetuned"]["horizons"]
    return {
        "psnr": _svg_uri(plots.horizon_curves(curves, horizons, "PSNR, dB")),
        "horizons": horizons,
        "rows": [(plots.STYLES[name]["label"], plots.STYLES[name]["color"], [f"{x:.2f}" for x in curves[name]["mean"]])
                 for name in curves],
        "figure": next(_row(figure) for figure in figures if figure.name == "finetune_psnr_gain_over_scratch"),
        "comparison": comparison,
    }  # fmt: skip


def _sides(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The two results behind the comparison of adaptation with training from scratch, if there is one."""
    return [results["finetune"][side] for side in ("finetuned", "scratch")] if results["finetune"] else []


def _settings(part: dict[str, Any]) -> dict[str, Any]:
    keys = ("checkpoint_hash", "twin_checkpoint_hash", "undertrained_checkpoint_hash", "tokenizer_fingerprint",
            "data_manifest_hash", "sha256")  # fmt: skip
    return {
        "label": part["task"] if part["task"] == part["name"] else f"{part['task']}, {part['name']}",
        "hashes": {key.replace("_", " "): part[key] for key in keys if part.get(key)},
        "samples": part["samples"],
        "config": yaml.safe_dump(part["config"], sort_keys=False, default_flow_style=None, width=60),
    }


def _write_picture(part: dict[str, Any], out: Path) -> None:
    """The usual episode's strip with labels, for the first screen of a README."""
    strips = [entry for entry in part["media"] if entry["kind"] == "strip"]
    usual = strips[len(strips) // 2]
    with Image.open(io.BytesIO(read_media(out, usual))) as image:
        pixels = np.asarray(image.convert("RGB"))
    columns = len(usual["horizons"])
    height, width = (pixels.shape[0] + GAP_PX) // 3, (pixels.shape[1] + GAP_PX) // columns
    cells = np.stack([[pixels[r * height : (r + 1) * height - GAP_PX, c * width : (c + 1) * width - GAP_PX]
                       for c in range(columns)] for r in range(3)])  # fmt: skip
    with publish_file(out / "picture.png") as temporary:
        temporary.write_bytes(plots.picture(cells, usual["horizons"], part["control_period_sec"]))

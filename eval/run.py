"""The evaluation tasks: what `whale eval <task>` runs."""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whale.calibration import save_calibration
from whale.cli import Task
from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.eval import fidelity, planning, uncertainty, value
from whale.eval.config import FidelityConfig, PlanningConfig, ReportConfig, UncertaintyConfig, ValueConfig
from whale.eval.episodes import Episodes, read_episodes
from whale.eval.media import publish_media, publish_strips
from whale.eval.merge import merge
from whale.eval.reliability import calibrate
from whale.eval.report import write_report
from whale.eval.results import Figure, hold_to, rounded, table, write_part
from whale.eval.signals import collect
from whale.eval.sources import check_sources, not_retraceable
from whale.eval.token_entropy import TokenScores, measure_tokens, token_figures
from whale.metrics.frames import PSNR_CAP_DB
from whale.policy import load_policy
from whale.sim.base import Camera
from whale.sim.policies import SKILLS

if TYPE_CHECKING:
    from whale.models.world_model import WorldModel


def _load(folder: Path) -> "WorldModel":
    from whale.models.world_model import WorldModel

    return WorldModel.from_pretrained(folder)


def _check_size(model: "WorldModel", folder: Path, frame_shape: tuple[int, ...], clips: Path | None) -> None:
    """Refuse a model of another size than the frames (H, W, 3) of `clips`, or of the tabletop where that is None."""
    (height, width, _), own = frame_shape, model.config.tokenizer.image_px
    if (height, width) != (own, own):
        raise UserError(
            f"{clips or 'the tabletop'} gives frames of {height} x {width} px, the model {folder} takes {own} x {own}",
            f"name a model trained on {height} px" + (f", or clips converted with size_px={own}" if clips else ""),
        )


def _check_actions(model: "WorldModel", folder: Path, episodes: Episodes, clips: Path) -> None:
    """Refuse a model that knows the dataset of the episodes with actions that mean something else."""
    card = model.config.datasets.get(episodes.dataset)
    if card and card.actions != episodes.action_words:
        raise UserError(
            f"{clips} holds {episodes.dataset!r} with {episodes.action_words}, the model {folder} knows {card.actions}",
            "name clips that were converted as the model's data was, or another model",
        )


def _identity(model: "WorldModel", reader: ClipReader) -> dict[str, Any]:
    return {
        "checkpoint_hash": model.checkpoint_hash,
        "tokenizer_fingerprint": model.tokenizer.fingerprint,
        "data_manifest_hash": reader.manifest.hash,
    }


def _load_twin(folder: Path, model: "WorldModel") -> "WorldModel":
    """An action-blind twin of a model.

    Raises:
        UserError: it sees actions, or has another tokenizer, under which token cross-entropies do not compare.
    """
    twin = _load(folder)
    if not twin.config.dynamics.action_blind:
        raise UserError(f"the twin {folder} is not action-blind", "train it with dynamics.action_blind=true")
    if twin.tokenizer.fingerprint != model.tokenizer.fingerprint:
        raise UserError(
            f"the twin {folder} has tokenizer {twin.tokenizer.fingerprint}, the model {model.tokenizer.fingerprint}",
            "train both on the tokens of one tokenizer",
        )
    return twin


def run_fidelity(config: FidelityConfig) -> None:
    """Score imagined frames against recorded ones; writes `<out>/<name>.json` and `<out>/<name>/`."""
    from whale.rollout import Imagination

    reader = ClipReader(config.clips, config.split)
    longest, shortest = (config.context_frames + config.horizons[i] for i in (-1, 0))
    episodes = read_episodes(reader, longest, shortest, config.max_episodes, config.seed, config.window_every)
    model = _load(config.model)
    _check_size(model, config.model, episodes.frames.shape[2:], config.clips)
    _check_actions(model, config.model, episodes, config.clips)
    imagines = {"model": functools.partial(Imagination, model)}
    twin = _load_twin(config.twin, model) if config.twin else None
    if twin and config.twin:
        _check_actions(twin, config.twin, episodes, config.clips)
        imagines["twin"] = functools.partial(Imagination, twin)
    scores = fidelity.measure(model, imagines["model"], episodes, config, imagines.get("twin"))
    found, told = fidelity.figures(scores, config), scores.per_episode()
    curves = {"psnr": told.psnr, "ssim": told.ssim, "token_accuracy": told.token_accuracy}
    token_scores = None
    if config.tokens:
        train = ClipReader(config.clips, "train")
        fitted_on = read_episodes(train, longest, longest, config.tokens.fit_episodes, config.seed, config.window_every)
        token_scores = measure_tokens(model, imagines, episodes, fitted_on, config, config.tokens)
        found += token_figures(token_scores, config)
        curves["cross_entropy"] = token_scores.nats
    found = hold_to(found, config.needs)
    content = _identity(model, reader) | {
        "dataset": episodes.dataset,
        "control_period_sec": episodes.control_period_sec,
        "seeds": {"seed": config.seed},
        "samples": {"episodes": len(episodes.of_episodes), "left_out": episodes.left_out},
        "psnr_cap_db": PSNR_CAP_DB,
        "curves": {"horizons": list(config.horizons)} | {
            metric: {name: fidelity.curve(values, config.seed) for name, values in series.items()}
            for metric, series in curves.items()
        },
        "per_episode": {"episodes": episodes.of_episodes, "psnr": {n: rounded(v) for n, v in told.psnr.items()}},
        "media": publish_media(model, episodes, scores, config),
    }
    if config.window_every:
        content["samples"]["windows"] = len(episodes)
    if twin:
        content["twin_checkpoint_hash"] = twin.checkpoint_hash
    if token_scores:
        content["token_entropy"] = _how(token_scores)
    _tell(found, write_part("fidelity", config, found, content))


def _how(scores: TokenScores) -> dict[str, Any]:
    """What must be known to read token cross-entropies."""
    return {
        "unit": "nats a token",
        "prediction": "mean over sampled rollouts of the next-token probabilities after each one's own frames",
        "mixture": "(1 - eps) p + eps u; u the unigram of tokens, eps the most likely one, both of the train split",
        "eps": {name: rounded(values) for name, values in scores.eps.items()},
    }


def run_value(config: ValueConfig) -> None:
    """Score imagined returns of policies against their true returns; writes `<out>/<name>.json`."""
    from whale.rollout import Imagination

    reader = ClipReader(config.clips, "train")
    model = _load(config.model)
    weak = _load(config.undertrained) if config.undertrained else None
    for folder, each in ((config.model, model), (config.undertrained, weak)):
        if folder and each:
            _check_size(each, folder, (Camera().size_px, Camera().size_px, 3), None)
    if (frames := reader.read(0).frames) is not None:
        _check_size(model, config.model, frames.shape[1:], config.clips)
    predict, num_fitted = value.fit_actions_only(reader, config.horizon)
    truth = value.run_truth(config)
    returns = {"model": value.run_imagined(functools.partial(Imagination, model), truth, config, "value")}
    found = value.figures(truth.returns, returns["model"], config.seed)
    returns["actions_only"] = predict(truth.actions)
    found += value.figures(truth.returns, returns["actions_only"], config.seed, "_actions_only")[:1]
    if weak:
        imagine = functools.partial(Imagination, weak)
        returns["undertrained"] = value.run_imagined(imagine, truth, config, "value, undertrained")
        found += value.figures(truth.returns, returns["undertrained"], config.seed, "_undertrained")
    found = hold_to(found, config.needs)
    content = _identity(model, reader) | {
        "dataset": value.DATASET,
        "undertrained_checkpoint_hash": weak.checkpoint_hash if weak else None,
        "seeds": {"seed": config.seed, "starts": truth.start_seeds.tolist()},
        "samples": {"policies": len(SKILLS), "starts": config.num_starts, "fitted_episodes": num_fitted},
        "policies": list(SKILLS),
        "success": rounded(truth.success.mean(1)),
        "returns": {"true": rounded(truth.returns)} | {name: rounded(values) for name, values in returns.items()},
    }
    _tell(found, write_part("value", config, found, content))


def run_uncertainty(config: UncertaintyConfig) -> None:
    """Judge signals of uncertainty by errors; writes `<out>/<name>.json`, `<out>/<name>/` and perhaps a calibration."""
    reader = ClipReader(config.clips, config.split)
    longest = config.context_frames + config.horizon
    episodes = read_episodes(reader, longest, longest, config.max_episodes, config.seed)
    if len(episodes) < config.min_episodes:
        raise UserError(
            f"{len(episodes)} episodes reach {config.horizon} imagined frames, min_episodes asks for "
            f"{config.min_episodes}: {episodes.left_out}",
            "give more or longer episodes, or lower horizon",
        )
    model, members = _load(config.model), [_load(folder) for folder in config.members]
    for folder, each in zip((config.model, *config.members), (model, *members), strict=True):
        _check_size(each, folder, episodes.frames.shape[2:], config.clips)
        _check_actions(each, folder, episodes, config.clips)
    check_sources(model, members, config)
    left_out = not_retraceable(model, episodes.dataset, config)
    retrace = config.retracing is not None and left_out is None
    signals = collect(model, members, episodes, retrace, config)
    judge = uncertainty.Judge(signals.error, config.seed)
    found, media = uncertainty.figures(judge, signals), []
    content = _identity(model, reader) | {
        "member_checkpoint_hashes": [member.checkpoint_hash for member in members],
        "dataset": episodes.dataset,
        "control_period_sec": episodes.control_period_sec,
        "seeds": {"seed": config.seed},
        "samples": {"episodes": len(episodes), "left_out": episodes.left_out},
        "left_out": {"retracing": str(left_out)} if left_out else {},
        "curves": uncertainty.curves(judge, signals),
        "per_episode": {"episodes": episodes.names, "error": rounded(signals.error)},
    }
    if retrace:
        fit = calibrate(model, episodes, signals, reader.manifest.hash, config)
        found += fit.figures(config.seed)
        content["calibration"] = {"bins": fit.bins(), "fitted_episodes": fit.calibration.episodes,
                                  "judged_episodes": len(fit.observed), "stored": config.calibrate}  # fmt: skip
        media = publish_strips(model, episodes, signals, fit.calibration, config)
    found = hold_to(found, config.needs)
    if retrace and config.calibrate:
        save_calibration(config.model, model, fit.calibration)
    path = write_part("uncertainty", config, found, content | {"media": media})
    if left_out:
        sys.stdout.write(f"retracing is left out: {left_out}\n\n")
    _tell(found, path)


def run_planning(config: PlanningConfig) -> None:
    """Let planners and the behaviour policies act in the true tabletop; writes `<out>/<name>.json`."""
    model = _load(config.model)
    _check_size(model, config.model, (Camera().size_px, Camera().size_px, 3), None)
    planners = {"": config.planner} | {f"_{name}": planner for name, planner in config.others.items()}
    if config.to_image:
        planners["_image"] = config.to_image
    for spec in sorted({spec for planner in planners.values() for spec in planner.proposals}):
        load_policy(spec, [config.seed], Camera().size_px)  # one that cannot be built is refused before any has played
    truth = value.run_truth(config)
    played = {
        suffix: planning.play(model, config, planner, suffix == "_image", f"planning{suffix}")
        for suffix, planner in planners.items()
    }
    found = hold_to(planning.figures(truth, played, config.seed), config.needs)
    content = {
        "checkpoint_hash": model.checkpoint_hash,
        "tokenizer_fingerprint": model.tokenizer.fingerprint,
        "data_manifest_hash": None,
        "dataset": value.DATASET,
        "seeds": {"seed": config.seed, "starts": truth.start_seeds.tolist()},
        "samples": {"starts": config.num_starts, "policies": len(SKILLS)},
        "policies": {
            name: {"return": rounded(truth.returns[p].mean()), "success": rounded(truth.success[p].mean())}
            for p, name in enumerate(SKILLS)
        },
        "planners": {
            suffix.removeprefix("_") or "planner": {
                "returns": rounded(one.returns), "success": one.success.tolist(), "costs": rounded(one.costs),
            }
            for suffix, one in played.items()
        },
    }  # fmt: skip
    _tell(found, write_part("planning", config, found, content))


def run_report(config: ReportConfig) -> None:
    """Merge results into `results.json`, make `report.html` and `picture.png` of it, and print the verdict.

    Raises:
        SystemExit: code 1, after everything is written, when a figure does not meet its need.
    """
    figures = merge(config)
    page = write_report(config.out)
    _tell(figures, page)
    if any(figure.holds is False for figure in figures):
        raise SystemExit(1)


def _tell(figures: Sequence[Figure], path: Path) -> None:
    """Print the verdict table and where the rest is."""
    sys.stdout.write("\n".join([*table(figures), "", f"{path}", ""]))
    sys.stdout.flush()


TASKS = {
    "fidelity": Task(FidelityConfig, run_fidelity),
    "value": Task(ValueConfig, run_value),
    "uncertainty": Task(UncertaintyConfig, run_uncertainty),
    "planning": Task(PlanningConfig, run_planning),
    "report": Task(ReportConfig, run_report),
}

"""Detection by signals whose worth is known, their collection against rollouts of one's own, and the whole task."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_clips import pixel_folder
from tiny_model import random_model, randomise, tiny_config

from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.eval import run, uncertainty
from whale.eval.config import ReportConfig, UncertaintyConfig
from whale.eval.episodes import read_episodes
from whale.eval.reliability import calibrate
from whale.eval.signals import Signals, collect, errors
from whale.models.world_model import WorldModel
from whale.rollout import Imagination
from whale.uncertainty import Retracing
from whale.uncertainty import uncertainty as pooled

CONTEXT, HORIZON = 3, 5


def make_config(**changes):
    values = {"out": Path("out"), "model": Path("model"), "clips": Path("clips"), "context_frames": CONTEXT,
              "horizon": HORIZON, "batch": 7}  # fmt: skip
    return UncertaintyConfig(**(values | changes))


def make_signals(error, **per_step):
    nothing = np.zeros((*error.shape, 4))
    return Signals(error, nothing.astype(int), per_step, nothing.astype(np.float32))


def test_a_clock_detects_nothing_within_a_horizon_and_much_when_steps_are_pooled():
    rng = np.random.default_rng(0)
    error = rng.random((40, 8)) + np.arange(8)
    signals = make_signals(error, retracing=np.diff(error, axis=1, prepend=0), entropy=np.ones((40, 8)),
                           action_norm=rng.random((40, 8)))  # fmt: skip
    figures = {figure.name: figure for figure in uncertainty.figures(uncertainty.Judge(error, 0), signals)}
    for suffix in ("", "_p90"):
        assert figures[f"auroc_retracing{suffix}"].value == pytest.approx(1)  # its sum is the error
        assert figures[f"auroc_entropy{suffix}"].value == figures[f"auroc_entropy{suffix}"].high == 0.5
        assert figures[f"auroc_retracing_over_entropy{suffix}"].value == pytest.approx(0.5)
        assert figures[f"auroc_action_norm{suffix}"].value < 0.75
    assert figures["auroc_retracing_step"].value < 0.95
    assert figures["auroc_pooled_step_index"].value == figures["auroc_pooled_entropy"].value > 0.95
    assert figures["spearman_retracing"].value == pytest.approx(1)
    areas = [figures[f"risk_coverage_area_{name}"] for name in ("oracle", "retracing", "action_norm", "entropy")]
    assert areas[0].value == pytest.approx(areas[1].value) and areas[3].value == pytest.approx(error.mean())
    assert areas[1].high < areas[2].low
    assert not any("ensemble" in name or "dropout" in name or "auroc_step_index" in name for name in figures)
    for figure in figures.values():
        assert figure.low <= figure.value + 1e-9 and figure.value <= figure.high + 1e-9 and figure.n == 40


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return pixel_folder(tmp_path_factory.mktemp("clips") / "clips", val=24)


@pytest.fixture(scope="module")
def episodes(clips):
    return read_episodes(ClipReader(clips, "val"), CONTEXT + HORIZON, CONTEXT + HORIZON, 10, 0)


def rollout(model, episodes, **options):
    frames, actions = episodes.frames[:, :CONTEXT], episodes.actions[:, : CONTEXT - 1]
    return Imagination(model, frames, actions, "tabletop", 0.2, **options)


def test_signals_are_those_of_rollouts_that_follow_the_tokens_of_the_model(episodes):
    model, others = random_model(dropout=0.2), [random_model(seed=seed) for seed in (1, 2)]
    for other in others:
        other.tokenizer.load_state_dict(model.tokenizer.state_dict())
    signals = collect(model, others, episodes, True, make_config(dropout_samples=2))
    leader, members = rollout(model, episodes, retracing=Retracing()), [rollout(one, episodes) for one in others]
    for h in range(HORIZON):
        actions = episodes.actions[:, CONTEXT - 1 + h]
        step = leader.step(actions)
        logits = [member.predict(actions).logits_BSV for member in members]
        for member in members:
            member.accept(torch.from_numpy(step.tokens))
        ensemble = pooled(torch.stack([leader.logits_BSV, *logits], 1))
        np.testing.assert_array_equal(signals.tokens[:, h], step.tokens)
        for name, expected in {
            "retracing": step.uncertainty.top, "retracing_divergence_mean": step.uncertainty.divergence_mean,
            "ensemble": ensemble.divergence_top, "ensemble_top": ensemble.top,
        }.items():  # fmt: skip
            np.testing.assert_allclose(signals.per_step[name][:, h], expected, rtol=1e-4, atol=1e-7)
        p = leader.logits_BSV.softmax(-1)
        np.testing.assert_allclose(signals.per_step["entropy"][:, h], -(p * p.log()).sum(-1).mean(-1), rtol=1e-5)
        np.testing.assert_allclose(signals.divergence[:, h], step.uncertainty.divergence_BS, rtol=1e-4, atol=1e-7)
    assert (signals.per_step["dropout"] > 0).all()
    np.testing.assert_allclose(signals.accumulated["entropy"][:, 2], signals.per_step["entropy"][:, :3].sum(1))


def test_what_else_is_in_the_batch_changes_nothing_and_frames_that_are_not_retraced_add_nothing(episodes):
    model = random_model(dropout=0.2)
    config = make_config(dropout_samples=2, retracing=Retracing(every=2))
    found = [collect(model, [], episodes, True, replace(config, batch=batch)) for batch in (3, 10)]
    for name, values in found[0].per_step.items():
        np.testing.assert_allclose(values, found[1].per_step[name], rtol=1e-5, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(found[0].error, found[1].error)
    assert (found[0].per_step["retracing"][:, 1::2] == 0).all() and (found[0].divergence[:, 1::2] == 0).all()
    assert (found[0].per_step["retracing"][:, ::2] > 0).all()
    assert "retracing" not in collect(model, [], episodes, False, config).per_step


def test_a_member_with_the_same_weights_never_disagrees(episodes):
    signals = collect(random_model(), [random_model()], episodes, False, make_config())
    assert (signals.per_step["ensemble"] == 0).all() and signals.divergence is None


def test_errors_are_those_of_the_dynamics_alone():
    """A book of four grey patches; the recorded frames are not quite their grey."""
    levels = np.array([0, 50, 100, 200])

    def encode(frames):
        return np.abs(frames[:, ::2, ::2, :1].reshape(len(frames), 4, 1) - levels).argmin(-1)

    def decode(tokens):
        grey = levels[tokens].reshape(*tokens.shape[:2], 2, 2, 1).astype(np.uint8)
        return grey.repeat(2, 2).repeat(2, 3).repeat(3, 4)

    book = SimpleNamespace(encode=encode, decode=decode)
    recorded = np.random.default_rng(0).integers(0, 4, (2, 6, 4))
    frames = book.decode(recorded) + np.uint8(7)
    imagined = recorded[:, 2:].copy()
    error = errors(book, frames, imagined)
    assert error.shape == (2, 4) and (error == 0).all()
    recorded[1, 3, 2], imagined[1, 1, 2] = 1, 3
    error = errors(book, book.decode(recorded), imagined)
    assert error[1, 1] == pytest.approx(np.sqrt(150**2 / 4))
    assert np.delete(error.ravel(), 5).max() == 0


def test_a_calibration_is_judged_by_episodes_that_it_has_not_seen():
    rng = np.random.default_rng(0)
    u = rng.random((60, HORIZON))
    signals = make_signals(3 * u.cumsum(1) + 1, retracing=u)
    names = SimpleNamespace(names=list(range(60)), dataset="tabletop")
    model = SimpleNamespace(checkpoint_hash="hash")
    fit = calibrate(model, names, signals, "clips", make_config())
    ece, mae, clock = fit.figures(0)
    assert ece.value < 0.3 and mae.value < 0.5 < clock.value
    assert fit.calibration.episodes == len(fit.observed) == ece.n == 30
    assert [one["low"] <= one["observed"] <= one["high"] for one in fit.bins()] == [True] * 10
    judged = np.array([row.tolist() in fit.observed.tolist() for row in signals.error])
    doubled = np.where(judged[:, None], 2 * signals.error, signals.error)
    again = calibrate(model, names, make_signals(doubled, retracing=u), "clips", make_config())
    assert again.calibration == fit.calibration and again.figures(0)[0].value > 1


def export(folder, seed=0, **switches):
    """A tiny model with random weights but one tokenizer for all."""
    config = tiny_config()
    card = replace(config.datasets["tabletop"], **switches.pop("card", {}))
    tokenizer_seed = switches.pop("tokenizer_seed", 0)
    dynamics = replace(config.dynamics, **switches)
    model = WorldModel(replace(config, dynamics=dynamics, datasets={"tabletop": card}))
    randomise(model, seed)
    randomise(model.tokenizer, tokenizer_seed)
    model.tokenizer.load_state_dict(tokenizer_state(tokenizer_seed), strict=True)
    model.save_pretrained(folder)
    return folder


def tokenizer_state(seed):
    torch.manual_seed(seed)
    return WorldModel(tiny_config()).tokenizer.state_dict()


def test_the_whole_task_stores_a_calibration_and_shows_it_on_the_page(clips, tmp_path, capsys):
    config = make_config(
        out=tmp_path / "eval", model=export(tmp_path / "model", dropout=0.1), clips=clips, calibrate=True,
        members=(export(tmp_path / "a", 1, dropout=0.1), export(tmp_path / "b", 2, dropout=0.1)), dropout_samples=2,
        needs={"auroc_retracing": {"at_least": 0.0}},
    )  # fmt: skip
    run.run_uncertainty(config)
    assert "PASS" in capsys.readouterr().out
    result = json.loads((config.out / "uncertainty.json").read_text())
    figures = {figure["name"] for figure in result["figures"]}
    for source in ("retracing", "entropy", "ensemble", "dropout", "action_norm"):
        assert {f"auroc_{source}", f"auroc_{source}_p90", f"auroc_{source}_step", f"spearman_{source}"} <= figures
    assert {"auroc_retracing_divergence_top", "auroc_retracing_entropy", "calibration_ece"} <= figures
    assert result["samples"]["episodes"] == 24 and len(result["member_checkpoint_hashes"]) == 2
    assert result["curves"]["steps"] == [1, 2, 4, 5] and result["calibration"]["stored"]

    model = WorldModel.from_pretrained(config.model)
    kept = model.calibration
    assert kept.weights == result["checkpoint_hash"] == model.checkpoint_hash
    assert (kept.signal, kept.retracing, kept.horizon) == ("top", config.retracing, HORIZON)
    assert kept.episodes == result["calibration"]["fitted_episodes"]

    run.run_report(ReportConfig(title="t", out=config.out, parts=(config.out / "uncertainty.json",)))
    page = (config.out / "report.html").read_text()
    assert "Does it know when it is wrong?" in page and page.count("data:image/png") == 2 == len(result["media"])
    assert "retracing minus ensemble" in page and "auroc_retracing" in page


def test_what_cannot_be_measured_is_refused_before_anything_is_written(clips, tmp_path):
    config = make_config(out=tmp_path / "eval", model=export(tmp_path / "model"), clips=clips)

    def refused(match, **changes):
        with pytest.raises(UserError, match=match):
            run.run_uncertainty(replace(config, **changes))

    refused("has tokenizer", members=(export(tmp_path / "tokens", 1, tokenizer_seed=1),))
    refused("or their statistics differ", members=(export(tmp_path / "data", 1, card={"reward_std": 0.5}),))
    refused("never disagrees", members=(export(tmp_path / "same"),))
    refused("trained without dropout", dropout_samples=4)
    refused("24 episodes reach 5 imagined frames, min_episodes asks for 25", min_episodes=25)
    refused("has no episode of", horizon=40)
    refused("context", context_frames=1)
    still = {"action_status": (2, 2, 2, 0, 0, 0, 2)}
    refused("knows", model=export(tmp_path / "unknown", card=still))
    assert not config.out.exists()
    with pytest.raises(ValueError, match="calibrate needs retracing"):
        make_config(retracing=None, calibrate=True)
    with pytest.raises(ValueError, match="calibrate needs held-out episodes"):
        make_config(split="train", calibrate=True)
    with pytest.raises(ValueError, match="one mask alone"):
        make_config(dropout_samples=1)


def test_where_retracing_is_not_defined_the_rest_is_measured(clips, tmp_path, capsys):
    turned = export(tmp_path / "model", card={"action_frame": "camera"})
    config = make_config(out=tmp_path / "eval", model=turned, clips=clips)
    with pytest.raises(UserError, match="'camera'"):
        run.run_uncertainty(replace(config, calibrate=True))
    run.run_uncertainty(config)
    assert "retracing is left out: " in capsys.readouterr().out
    result = json.loads((config.out / "uncertainty.json").read_text())
    assert "'camera'" in result["left_out"]["retracing"] and result["media"] == []
    names = {figure["name"] for figure in result["figures"]}
    assert "auroc_entropy" in names and not any("retracing" in name or "calibration" in name for name in names)
    run.run_report(ReportConfig(title="t", out=config.out, parts=(config.out / "uncertainty.json",)))
    assert "Retracing is left out" in (config.out / "report.html").read_text()

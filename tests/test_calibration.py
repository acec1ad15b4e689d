import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from tiny_model import random_model

from whale.calibration import MOST_KNOTS, Calibration, calibration_for, fit_knots, read_calibration, save_calibration
from whale.errors import UserError
from whale.export import save_export
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel
from whale.uncertainty import Retracing, uncertainty

generators = st.integers(0, 10_000).map(np.random.default_rng)


def calibration(weights: str = "0" * 64, **changes) -> Calibration:
    values = {
        "weights": weights, "signal": "top", "retracing": Retracing(), "dataset": "tabletop", "clips": "c" * 64,
        "episodes": 3, "frames": 12, "context_frames": 2, "horizon": 4,
        "uncertainty": (1.0, 2.0, 4.0), "error": (3.0, 3.0, 9.0),
    }  # fmt: skip
    return Calibration(**{**values, **changes})


@pytest.fixture
def export(tmp_path):
    """A calibrated one."""
    model = random_model().float()
    model.record = {"step": 3, "figures": {"psnr": 20.5}}
    model.save_pretrained(tmp_path / "export")
    loaded = WorldModel.from_pretrained(tmp_path / "export")
    save_calibration(tmp_path / "export", loaded, calibration(loaded.checkpoint_hash))
    return tmp_path / "export"


def test_the_map_is_linear_between_knots_and_constant_beyond():
    found = calibration().expected_error(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 99.0]))
    assert found.dtype == np.float32 and found.tolist() == [3, 3, 3, 3, 6, 9, 9]


@given(rng=generators, ties=st.booleans())
def test_knots_are_few_monotone_and_keep_the_mean(rng, ties):
    shape = (int(rng.integers(1, 8)), int(rng.integers(1, 12)))
    x = rng.exponential(size=shape).cumsum(1)
    if ties:  # each value often enough to be a group
        x = rng.permutation(np.resize([0.0, 1.0, 2.0], x.size)).reshape(shape)
    y = rng.exponential(size=shape) + rng.normal() * x
    y -= min(0.0, y.min())
    knots, error = fit_knots(x, y)
    assert 1 <= len(knots) == len(error) <= min(MOST_KNOTS, len(np.unique(x)))
    fitted = calibration(uncertainty=knots, error=error)  # which refuses what is not monotone
    if ties:  # a group is a value: the least-squares monotone fit itself
        order = np.argsort(x.ravel(), kind="stable")
        values = np.array([y[x == value].mean() for value in x.ravel()[order]])
        assert fitted.expected_error(x.ravel()[order]) == pytest.approx(isotonic_regression(values).x, rel=1e-5)


def test_errors_that_are_a_function_of_uncertainty_are_foretold():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 2, (200, 16)).cumsum(1)
    knots, error = fit_knots(x, 5 + 2 * x)
    fitted = calibration(uncertainty=knots, error=error)
    inner = np.linspace(knots[0], knots[-1], 50)
    np.testing.assert_allclose(fitted.expected_error(inner), 5 + 2 * inner, rtol=1e-6)
    noisy = fit_knots(x, np.full(x.shape, 7.0) - x)  # no monotone map but a constant
    assert np.ptp(noisy[1]) == 0 and noisy[1][0] == pytest.approx((7.0 - x).mean())


def test_what_a_step_adds_is_the_signal_of_the_calibration():
    step = uncertainty(torch.randn(3, 2, 16, 8))
    for signal in ("top", "mean", "entropy", "divergence_mean"):
        added = calibration(signal=signal).of_step(step)
        assert added.dtype == np.float64 and added.tolist() == getattr(step, signal).tolist()
    total = np.ones(3) + calibration().of_step(None)
    assert total.tolist() == [1, 1, 1]


def test_it_lies_in_the_export_and_comes_back(export):
    model = WorldModel.from_pretrained(export)
    assert model.calibration == calibration(model.checkpoint_hash)
    assert calibration_for(model, "tabletop", Retracing()) is model.calibration
    assert VideoTokenizer.from_pretrained(export).calibration is None
    save_calibration(export, model, replace(model.calibration, error=(1.0, 2.0, 3.0)))
    again = WorldModel.from_pretrained(export)
    assert again.calibration == model.calibration and again.calibration.error == (1.0, 2.0, 3.0)
    assert not list(export.parent.glob(".tmp-*"))


def test_the_card_says_in_a_line_whether_there_is_one(export, tmp_path):
    model = WorldModel.from_pretrained(export)
    card = (export / "README.md").read_text()
    model.calibration = None
    model.save_pretrained(tmp_path / "plain")
    plain = (tmp_path / "plain/README.md").read_text()
    changed = [pair for pair in zip(card.splitlines(), plain.splitlines(), strict=True) if pair[0] != pair[1]]
    assert len(changed) == 1 and changed[0][1].startswith("Not calibrated:")
    assert changed[0][0].startswith("Calibrated:") and "3 held-out episodes of tabletop" in changed[0][0]
    VideoTokenizer.from_pretrained(export).save_pretrained(tmp_path / "tokenizer")
    assert "alibrated" not in (tmp_path / "tokenizer/README.md").read_text()


def test_it_is_kept_with_its_weights_and_left_with_others(export, tmp_path):
    model = WorldModel.from_pretrained(export)
    model.save_pretrained(tmp_path / "copy")
    assert WorldModel.from_pretrained(tmp_path / "copy").calibration == model.calibration
    model.double().save_pretrained(tmp_path / "copy")
    assert WorldModel.from_pretrained(tmp_path / "copy").calibration == model.calibration
    with torch.no_grad():
        next(model.parameters()).add_(1)  # trained further
    model.save_pretrained(tmp_path / "copy")
    assert WorldModel.from_pretrained(tmp_path / "copy").calibration is None
    other = random_model(seed=1).float()
    save_export(export, "world_model", other, other.config, {})  # into the same folder
    assert WorldModel.from_pretrained(export).calibration is None and not (export / "calibration.json").exists()


def test_one_of_other_weights_is_refused_with_both_hashes(export):
    model = WorldModel.from_pretrained(export)
    with pytest.raises(UserError) as refused:
        save_calibration(export, model, calibration())
    assert "0" * 64 in str(refused.value) and model.checkpoint_hash in str(refused.value)
    path = export / "calibration.json"
    path.write_text(path.read_text().replace(model.checkpoint_hash, "f" * 64))
    with pytest.raises(UserError) as refused:
        WorldModel.from_pretrained(export)
    assert "f" * 64 in str(refused.value) and model.checkpoint_hash in str(refused.value)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("uncertainty", [1.0, 1.0, 2.0]),
        ("uncertainty", [1.0, 2.0]),
        ("uncertainty", [1.0, 2.0, float("nan")]),
        ("error", [3.0, 2.0, 9.0]),
        ("error", [-1.0, 2.0, 9.0]),
        ("error", "large"),
        ("signal", "loudness"),
        ("retracing", {"steps": [1, 0]}),
        ("weights", None),
        ("surprise", 1),
    ],
)
def test_a_damaged_one_is_told(export, key, value):
    path = export / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match="is damaged") as refused:
        WorldModel.from_pretrained(export)
    assert str(path) in str(refused.value) and key in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe\x00", b"[" * 100_000])
def test_one_that_is_no_json_is_told(tmp_path, content):
    (tmp_path / "calibration.json").write_bytes(content)
    with pytest.raises(UserError, match=r"calibration\.json is damaged(.|\n)*delete it"):
        read_calibration(tmp_path, "0" * 64)


def test_what_needs_one_and_finds_none_says_how_to_make_it(export):
    model = WorldModel.from_pretrained(export)
    for dataset, retracing in (("bridge", Retracing()), ("tabletop", Retracing(steps=(0, 2)))):
        with pytest.raises(UserError, match=r"calibrated on 'tabletop' at steps \(0, 1\)(.|\n)*whale eval uncertainty"):
            calibration_for(model, dataset, retracing)
    with pytest.raises(UserError, match=r"no calibration(.|\n)*whale eval uncertainty"):
        calibration_for(random_model(), "tabletop", Retracing())

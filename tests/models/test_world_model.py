"""Causality: nothing at or before t depends on anything after t, the behaviour embedding included."""

import json
import subprocess
import sys

import pytest
import torch
from tiny_model import random_batch, random_model

from whale.errors import UserError
from whale.export import save_export
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel


def predict(model, batch):
    features = model.action_features(batch)
    prior = model.prior(model.behavior.summary(model.codes(batch["tokens"])), features)
    return model.predict(batch["tokens"], features, prior.mean, batch)


def predict_with_draw(model, batch):
    """As in training: z drawn from the prior with given noise."""
    features = model.action_features(batch)
    prior = model.prior(model.behavior.summary(model.codes(batch["tokens"])), features)
    noise = torch.randn(prior.mean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model.predict(batch["tokens"], features, prior.sample(noise), batch)


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("t", [0, 3, 6])
def test_nothing_later_changes_an_earlier_prediction(t, blind):
    """Tokens, actions, their masks, rewards, ends and validity after t; z is drawn from the prior."""
    model = random_model(action_blind=blind)
    batch = random_batch(model)
    later = {name: value.clone() for name, value in batch.items()}
    later["tokens"][:, t + 1 :] = (later["tokens"][:, t + 1 :] + 1) % 32
    later["actions"][:, t + 1 :] += 1.0
    for name in ("action_mask", "reward_mask", "terminated", "terminated_mask", "valid"):
        later[name][:, t + 1 :] ^= True
    later["rewards"][:, t + 1 :] += 1.0
    before, after = predict_with_draw(model, batch), predict_with_draw(model, later)
    for name in before._fields:
        assert torch.equal(getattr(before, name)[:, : t + 1], getattr(after, name)[:, : t + 1]), name
        assert not torch.allclose(getattr(before, name)[:, t + 1 :], getattr(after, name)[:, t + 1 :]), name


def test_the_present_action_reaches_the_prediction_beside_z(model, batch):
    """With z held, so that the action's own way in is seen; and z has one too."""
    features = model.action_features(batch)
    z = torch.zeros(2, 8, 6, dtype=torch.float64)
    before = model.predict(batch["tokens"], features, z, batch).logits_BTSV
    for changed in ((features + 0.1, z), (features, z + 0.1)):
        assert (model.predict(batch["tokens"], *changed, batch).logits_BTSV - before).abs().min(0).values.max() > 1e-3


INPUTS = {
    "action_status": lambda value: torch.full_like(value, 1),
    "action_type": lambda value: value + 1,
    "embodiment": lambda value: value + 1,
    "control_period_sec": lambda value: 2 * value,
}


@pytest.mark.parametrize("name", INPUTS)
def test_each_constant_input_changes_every_output(name):
    model = random_model(datasets=("a", "b"))
    batch = {**random_batch(model), "action_mask": torch.zeros(2, 8, 7, dtype=torch.bool)}
    before, after = predict(model, batch), predict(model, {**batch, name: INPUTS[name](batch[name])})
    for field in before._fields:
        assert (getattr(before, field) - getattr(after, field)).abs().min() > 0, field


def test_present_action_and_frame_matter(model, batch):
    before = predict(model, batch).logits_BTSV
    actions = batch["actions"].clone()
    actions[:, 3, 0] += 1.0
    assert (predict(model, {**batch, "actions": actions}).logits_BTSV[:, 3] - before[:, 3]).abs().max() > 1e-3
    tokens = batch["tokens"].clone()
    tokens[:, 3, 0] = (tokens[:, 3, 0] + 1) % 32
    assert (predict(model, {**batch, "tokens": tokens}).logits_BTSV[:, 3] - before[:, 3]).abs().max() > 1e-3


def test_band_limits_how_far_back_a_prediction_reaches():
    model = random_model(band=2, depth=2)
    batch = random_batch(model)
    tokens = batch["tokens"].clone()
    tokens[:, 0] = (tokens[:, 0] + 1) % 32
    difference = (predict(model, batch).logits_BTSV - predict(model, {**batch, "tokens": tokens}).logits_BTSV).abs()
    # Two layers of two frames see two frames back; the prior (one layer) feeds each of them and adds one.
    assert difference[:, 3].max() > 0
    assert difference[:, 4:].max() == 0


def test_unknown_action_is_not_a_zero_action(model, batch):
    zero = {**batch, "actions": torch.zeros_like(batch["actions"])}
    unknown = {**zero, "action_mask": torch.zeros_like(batch["action_mask"])}
    assert not torch.allclose(predict(model, zero).logits_BTSV, predict(model, unknown).logits_BTSV)


def test_export_loads_in_another_process(tmp_path, model):
    model = model.float()
    save_export(tmp_path / "export", "world_model", model, model.config, {"step": 3})
    code = (
        "import sys, torch; from whale.models.world_model import WorldModel; from pathlib import Path;"
        "m = WorldModel.from_pretrained(Path(sys.argv[1]));"
        "print(m.checkpoint_hash, m.tokenizer.fingerprint, sum(p.double().sum().item() for p in m.parameters()))"
    )
    out = subprocess.run([sys.executable, "-c", code, tmp_path / "export"], capture_output=True, text=True, check=True)
    checkpoint_hash, fingerprint, total = out.stdout.split()
    assert len(checkpoint_hash) == 64 and fingerprint == model.tokenizer.fingerprint
    assert float(total) == pytest.approx(sum(p.double().sum().item() for p in model.parameters()))
    assert VideoTokenizer.from_pretrained(tmp_path / "export").fingerprint == fingerprint


def test_bad_exports_are_refused(tmp_path, model):
    with pytest.raises(UserError, match="holds no exported model"):
        WorldModel.from_pretrained(tmp_path)
    save_export(tmp_path / "tokenizer", "tokenizer", model.tokenizer, model.tokenizer.config, {})
    with pytest.raises(UserError, match="holds a tokenizer, not a world_model"):
        WorldModel.from_pretrained(tmp_path / "tokenizer")
    save_export(tmp_path / "model", "world_model", model, model.config, {})
    config = tmp_path / "model" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "export_version": 99}))
    with pytest.raises(UserError, match="export version 99"):
        WorldModel.from_pretrained(tmp_path / "model")
    values["model"]["dynamics"]["width"] = 32
    config.write_text(json.dumps(values))
    with pytest.raises(UserError, match="do not fit the model"):
        WorldModel.from_pretrained(tmp_path / "model")

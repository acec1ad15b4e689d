"""What the switches of the dynamics promise: recomputation, dropout, the action-blind twin."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_model import random_batch, randomise, tiny_config

from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig
from whale.objectives.dynamics_objective import DynamicsObjective


def build(**switches) -> WorldModel:
    config = tiny_config()
    torch.manual_seed(0)
    model = WorldModel(replace(config, dynamics=replace(config.dynamics, **switches)))
    randomise(model)
    return model.double().eval()


def predict(model, batch, keep=None):
    features = model.action_features(batch)
    prior = model.prior(model.behavior.summary(model.codes(batch["tokens"])), features)
    return model.predict(batch["tokens"], features, prior.mean, batch, keep=keep)


def gradients(model, batch):
    objective = DynamicsObjective(copy.deepcopy(model), DynamicsLossConfig(), []).train()
    loss, _ = objective(batch, objective.counts(batch), ClipNoise(0, 0, torch.arange(2)))
    loss.backward()
    return loss, {name: value.grad for name, value in objective.named_parameters() if value.requires_grad}


def test_recomputing_blocks_changes_no_bit_and_saves_memory():
    model = build().float()
    batch = {k: v.float() if v.is_floating_point() else v for k, v in random_batch(model).items()}
    results, saved = [], []
    for recompute in (False, True):
        model.dynamics.transformer.recompute = model.behavior.prior.recompute = recompute
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, to=sizes: to.append(x.numel()) or x, lambda x: x):
            results.append(gradients(model, batch))
        saved.append(sum(sizes))
    (loss, plain), (again, recomputed) = results
    assert torch.equal(loss, again)
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)
    assert saved[1] < 0.7 * saved[0]


def test_dropout_mask_is_constant_over_frames_and_drawn_clip_by_clip():
    model = build(dropout=0.25)
    dynamics = model.dynamics
    keep = dynamics.draw_keep(ClipNoise(0, 0, torch.arange(100)).uniform)
    assert keep.shape == (2, 3, 100, 16)
    assert set(keep.unique().tolist()) == {0.0, 1 / 0.75}
    assert abs(keep.mean() - 1) < 0.05
    alone = dynamics.draw_keep(ClipNoise(0, 0, torch.tensor([7])).uniform)
    assert torch.equal(alone[:, :, 0], keep[:, :, 7])
    assert build().dynamics.draw_keep(ClipNoise(0, 0, torch.arange(2)).uniform) is None
    # Without a mask it is the mean model; a mask of ones is no mask; a clip feels its own mask alone.
    batch = random_batch(model)
    expected = predict(model, batch).logits_BTSV
    keep = keep[:, :, :2].clone()
    torch.testing.assert_close(predict(model, batch, torch.ones_like(keep)).logits_BTSV, expected)
    dropped = predict(model, batch, keep).logits_BTSV
    assert not torch.allclose(dropped, expected)
    keep[:, :, 1] = 1
    torch.testing.assert_close(predict(model, batch, keep).logits_BTSV[0], dropped[0])
    torch.testing.assert_close(predict(model, batch, keep).logits_BTSV[1], expected[1])


def test_a_rollout_with_one_mask_equals_its_recompute():
    model = build(dropout=0.25)
    batch = random_batch(model)
    keep = model.dynamics.draw_keep(ClipNoise(0, 0, torch.arange(2)).uniform)
    features = model.action_features(batch)
    z = model.prior(model.behavior.summary(model.codes(batch["tokens"])), features).mean
    cache = model.dynamics.transformer.new_cache()
    frames = [
        model.predict(batch["tokens"][:, t : t + 1], features[:, t : t + 1], z[:, t : t + 1], batch, t, cache, keep)
        for t in range(8)
    ]
    streamed = torch.cat([frame.logits_BTSV for frame in frames], 1)
    torch.testing.assert_close(streamed, predict(model, batch, keep).logits_BTSV)


def test_the_blind_twin_sees_no_action():
    model = build(action_blind=True)
    batch = random_batch(model)
    before = predict(model, batch)
    changed = {**batch, "actions": 2 * batch["actions"] + 1, "action_mask": ~batch["action_mask"]}
    changed |= {"action_status": torch.zeros_like(batch["action_status"]), "action_type": batch["action_type"] + 1}
    after = predict(model, changed)
    for name in before._fields:
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    fewer = {name for name, _ in build().named_parameters()} - {name for name, _ in model.named_parameters()}
    assert {name.split(".")[1] for name in fewer} == {"action_in", "behavior_in"}


@pytest.mark.parametrize("switches", [{}, {"action_blind": True}, {"dropout": 0.3}])
def test_every_parameter_but_the_tokenizers_receives_gradient(switches):
    model = build(**switches)
    batch = random_batch(model)
    batch["terminated"] = torch.rand(2, 8) < 0.3
    _, found = gradients(model, batch)
    assert not any(name.startswith("model.tokenizer") for name in found)
    assert not [name for name, gradient in found.items() if gradient is None or not gradient.any()]

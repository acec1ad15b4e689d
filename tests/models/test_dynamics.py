"""What the switches of the dynamics promise: recomputation, dropout, the action-blind twin."""

import copy

import pytest
import torch
from tiny_model import random_batch, random_model

from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig
from whale.objectives.dynamics_objective import DynamicsObjective


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
    model = random_model().float()
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
    model = random_model(dropout=0.25)
    dynamics = model.dynamics
    keep = dynamics.draw_keep(ClipNoise(0, 0, torch.arange(100)).uniform)
    assert keep.shape == (2, 3, 100, 16)
    assert set(keep.unique().tolist()) == {0.0, 1 / 0.75}
    assert abs(keep.mean() - 1) < 0.05
    alone = dynamics.draw_keep(ClipNoise(0, 0, torch.tensor([7])).uniform)
    assert torch.equal(alone[:, :, 0], keep[:, :, 7])
    assert random_model().dynamics.draw_keep(ClipNoise(0, 0, torch.arange(2)).uniform) is None
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
    model = random_model(dropout=0.25)
    batch = random_batch(model)
    keep = model.dynamics.draw_keep(ClipNoise(0, 0, torch.arange(2)).uniform)
    features = model.action_features(batch)
    z = model.prior(model.behavior.summary(model.codes(batch["tokens"])), features).mean
    cache, frames = model.dynamics.transformer.new_cache(2), []
    for t in range(8):
        one = [x[:, t : t + 1] for x in (batch["tokens"], features, z)]
        frames.append(model.predict(*one, batch, cache.enter(torch.full((2, 1), t)), keep))
    streamed = torch.cat([frame.logits_BTSV for frame in frames], 1)
    torch.testing.assert_close(streamed, predict(model, batch, keep).logits_BTSV)


def test_the_blind_twin_sees_no_action():
    model = random_model(action_blind=True)
    batch = random_batch(model)
    before = predict(model, batch)
    changed = {**batch, "actions": 2 * batch["actions"] + 1, "action_mask": ~batch["action_mask"]}
    changed |= {"action_status": torch.zeros_like(batch["action_status"]), "action_type": batch["action_type"] + 1}
    after = predict(model, changed)
    for name in before._fields:
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    fewer = {name for name, _ in random_model().named_parameters()} - {name for name, _ in model.named_parameters()}
    assert {name.split(".")[1] for name in fewer} == {"action_in", "behavior_in"}


@pytest.mark.parametrize("switches", [{}, {"action_blind": True}, {"dropout": 0.3}])
def test_every_parameter_but_the_tokenizers_receives_gradient(switches):
    model = random_model(**switches)
    batch = random_batch(model)
    batch["terminated"] = torch.rand(2, 8) < 0.3
    _, found = gradients(model, batch)
    assert not any(name.startswith("model.tokenizer") for name in found)
    assert not [name for name, gradient in found.items() if gradient is None or not gradient.any()]


@pytest.mark.parametrize(("mask", "head"), [("reward_mask", 0), ("terminated_mask", 1)])
def test_a_dataset_without_rewards_or_ends_does_not_teach_their_head(mask, head):
    model = random_model()
    batch = random_batch(model)
    batch["terminated"] = torch.rand(2, 8) < 0.3
    batch[mask] = torch.zeros_like(batch[mask])
    batch["rewards"] = 100 * batch["rewards"]
    _, found = gradients(model, batch)
    out = found["model.dynamics.outcome.2.weight"]
    assert not out[head].any() and out[1 - head].any()
    neither = {**batch, "reward_mask": batch[mask], "terminated_mask": batch[mask]}
    _, found = gradients(model, neither)
    assert not any(gradient.any() for name, gradient in found.items() if ".outcome." in name)


def test_bfloat16_is_finite_and_near():
    """Under autocast with its backward pass, and with all weights in bfloat16."""
    model = random_model(dropout=0.2).float()
    batch = {k: v.float() if v.is_floating_point() else v for k, v in random_batch(model).items()}
    exact, _ = gradients(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss, found = gradients(model, batch)
    assert all(gradient.isfinite().all() for gradient in found.values())
    torch.testing.assert_close(loss, exact, rtol=0.03, atol=0)
    halves = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    for value in predict(model.bfloat16(), halves):
        assert value.isfinite().all()

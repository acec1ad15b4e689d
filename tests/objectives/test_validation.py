"""Validation: exact means by group, action-following on models that listen and that do not, the verdict."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_model import CARD, random_batch, random_model, randomise, tiny_config

from whale.metrics.frames import psnr
from whale.model_card import FIGURES
from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig, dynamics_loss
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.objectives.noise import NO_NOISE
from whale.objectives.validation import FOLLOWING, Tally, ValidationConfig, add_following, imagine
from whale.sampling import expected_tokens

CONTEXT, FRAMES = 3, 7


def several(**switches) -> WorldModel:
    """A random model of three datasets, two of them of one robot."""
    config = tiny_config()
    cards = {"a": replace(CARD, robot="arm"), "b": replace(CARD, robot="arm"), "c": CARD}
    torch.manual_seed(0)  # of the codebook
    model = WorldModel(replace(config, datasets=cards, dynamics=replace(config.dynamics, **switches)))
    randomise(model)
    return model.double().eval()


def clips(model, batch=6, frames=FRAMES):
    clips = random_batch(model, batch, frames)
    clips["embodiment"] = torch.arange(batch) % 3
    clips["position"] = torch.arange(batch)
    for name in ("valid", "reward_mask", "terminated_mask", "action_mask"):
        clips[name] = clips[name].clone()
    clips["valid"][0, 4:] = clips["action_mask"][0, 4:] = clips["reward_mask"][0, 4:] = False
    return clips


def following(model):
    batch = clips(model)
    partner = (torch.arange(6) + 3) % 6
    batch |= {f"other_{name}": batch[name][partner] for name in ("actions", "action_mask")}
    return batch | {"scored": batch["valid"] & batch["valid"][partner]}


def parts(batch, size):
    return [{name: value[i : i + size] for name, value in batch.items()} for i in range(0, 6, size)]


def test_figures_are_exact_means_over_clips_and_groups():
    """Of all, of a dataset, of a robot: the loss's own figures of just those clips, however they were cut."""
    model = several()
    batch = clips(model)
    config = DynamicsLossConfig(noise=NO_NOISE)
    found = [DynamicsObjective(model, DynamicsLossConfig(), parts(batch, size)).validate() for size in (6, 2, 1)]
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-9)
    groups = {"": [0, 1, 2, 3, 4, 5], "dataset/a/": [0, 3], "dataset/c/": [2, 5], "robot/arm/": [0, 1, 3, 4]}
    assert "robot//cross_entropy" not in found[0]
    for prefix, rows in groups.items():
        one = {name: value[rows] for name, value in batch.items()}
        objective = DynamicsObjective(model, config, [])
        _, figures = dynamics_loss(model, one, objective.counts(one), config, ClipNoise(0, 0, one["position"]))
        for name, value in figures.items():
            assert found[0][prefix + name] == pytest.approx(float(value), rel=1e-5), prefix + name


def test_dropout_is_off_in_validation():
    batch = clips(several())
    plain, dropped = (DynamicsObjective(several(dropout=share), DynamicsLossConfig(), [batch]) for share in (0.0, 0.5))
    assert dropped.validate() == plain.validate()
    dropped.train()
    counts = dropped.counts(batch)
    losses = [one(batch, counts, ClipNoise(0, 0, torch.arange(6)))[0].item() for one in (plain.train(), dropped)]
    assert losses[0] != losses[1]


def test_a_cached_imagination_is_the_full_recompute():
    model = random_model()
    batch = random_batch(model, 2, FRAMES)
    features = model.action_features(batch)
    found = imagine(model, batch["tokens"][:, :CONTEXT], features, batch)
    tokens = batch["tokens"][:, :CONTEXT]
    for t in range(CONTEXT, FRAMES):
        prior = model.prior(model.behavior.summary(model.codes(tokens)), features[:, :t])
        out = model.predict(tokens, features[:, :t], prior.mean, batch)
        tokens = torch.cat([tokens, expected_tokens(out.logits_BTSV[:, -1], model.tokenizer)[:, None]], 1)
    assert torch.equal(found, tokens)


def test_following_against_its_definition():
    """Clip by clip: imagined with true and with other actions, PSNR of each frame against the decoded recording."""
    model = several()
    with torch.no_grad():  # make it listen
        model.dynamics.action_in[0].weight *= 30
        model.dynamics.code_shift.weight *= 5
        model.dynamics.sharpness += 2
    batch = following(model)
    tally = Tally(model.config.datasets)
    watched = add_following(model, batch, CONTEXT, tally)
    figures = tally.figures()
    gains = {}
    for i in range(6):
        one = {name: value[i : i + 1] for name, value in batch.items()}
        count = int(one["scored"].sum()) - CONTEXT
        recorded = model.decode(one["tokens"].numpy())
        scores = []
        for source in ("", "other_"):
            given = dict(one)
            for name in ("actions", "action_mask"):
                given[name] = one[name].clone()
                given[name][:, CONTEXT - 1 :] = one[f"{source}{name}"][:, CONTEXT - 1 :]
            imagined = imagine(model, one["tokens"][:, :CONTEXT], model.action_features(given), given)
            scores.append(psnr(model.decode(imagined.numpy()), recorded)[0, CONTEXT : CONTEXT + count].mean())
        gains[i] = scores[0] - scores[1]
        assert np.array_equal(watched[i, :, :, :16].numpy(), recorded[0])
    values = np.array(list(gains.values()))
    assert np.abs(values).max() > 0.01
    assert figures[FOLLOWING] == pytest.approx(values.mean(), abs=1e-4)
    assert figures[f"{FOLLOWING}_se"] == pytest.approx(values.std(ddof=1) / 6**0.5, abs=1e-4)
    assert figures[f"dataset/b/{FOLLOWING}"] == pytest.approx((gains[1] + gains[4]) / 2, abs=1e-4)


def test_a_blind_model_follows_by_nothing_and_fails_a_run_that_asks():
    model = several(action_blind=True)
    asked = ValidationConfig(following_horizon=4, min_action_following=0.5, min_following_from=100)
    objective = DynamicsObjective(model, DynamicsLossConfig(), [clips(model)], following(model), asked)
    figures = objective.validate()
    assert {name for name in figures if "/" not in name} <= FIGURES.keys()  # a model card says what each means
    assert figures[FOLLOWING] == 0.0
    assert objective.verdict(99, figures) is None
    problem = objective.verdict(100, figures).args[0]
    assert "action_following at step 100 is 0.00 dB" in problem and "asks for 0.5 dB" in problem
    assert objective.verdict(100, {**figures, FOLLOWING: 0.5}) is None
    assert "no held-out clip is long enough" in objective.verdict(100, {}).args[0]
    (video,) = objective.videos().values()
    assert video.shape == (FRAMES, 16, 32, 3) and video.dtype == np.uint8
    assert DynamicsObjective(model, DynamicsLossConfig(), [], None).verdict(100, {}) is None


def test_what_is_asked_must_be_measured():
    with pytest.raises(ValueError, match="needs following_clips"):
        ValidationConfig(min_action_following=0.1, following_clips=0)

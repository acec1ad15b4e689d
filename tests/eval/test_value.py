from dataclasses import replace

import numpy as np
import pytest

from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.eval import value
from whale.eval.config import ValueConfig
from whale.sim.policies import SKILLS, TabletopPolicy
from whale.sim.tabletop import Tabletop

CONFIG = ValueConfig(out="out", model="model", clips="clips", num_starts=3, horizon=10)


@pytest.fixture(scope="module")
def truth():
    return value.run_truth(CONFIG)


def imagined(fakes, truth, **model):
    simulator = fakes.Simulator(**model)
    fakes.know_starts(simulator, CONFIG.num_starts, CONFIG.context_frames)
    return value.run_imagined(lambda **inputs: fakes.Imagination(simulator, **inputs), truth, CONFIG, "test")


def test_truth_is_one_policy_from_one_start_run_alone(truth):
    """The batched protocol against the plainest loop, for a policy and a start in the middle."""
    p, n = 5, 1
    world = Tabletop(1)
    world.reset(truth.start_seeds[n : n + 1])
    np.testing.assert_array_equal(truth.context_frames[n, 0], world.render()[0])
    for t in range(3):
        world.step(truth.context_actions[n, t][None])
    np.testing.assert_array_equal(truth.context_frames[n, 3], world.render()[0])
    policy = TabletopPolicy(list(SKILLS.values())[p], truth.start_seeds[n : n + 1])
    total = 0.0
    for t in range(CONFIG.horizon):
        action = policy.act(world.render())
        np.testing.assert_array_equal(action[0], truth.actions[p, n, t])
        total += world.step(action)[0][0]
    assert truth.returns[p, n] == pytest.approx(total)
    assert truth.success[p, n] == world.success()[0]


def test_a_perfect_imagination_gives_the_true_returns(fakes, truth):
    returns = imagined(fakes, truth)
    np.testing.assert_allclose(returns, truth.returns, rtol=1e-6)
    by_name = {figure.name: figure for figure in value.figures(truth.returns, returns, seed=0)}
    assert by_name["value_pearson"].value == pytest.approx(1)
    assert by_name["value_spearman"].value == by_name["value_pearson_per_start"].value == pytest.approx(1)
    for name in ("mmrv", "regret_at_1", "value_gap"):
        assert by_name[name].value == pytest.approx(0, abs=1e-5)
    assert by_name["value_pearson"].n == len(SKILLS)
    assert by_name["value_pearson_per_start"].n == CONFIG.num_starts


def test_a_bad_imagination_is_told_from_a_good_one(fakes, truth):
    weak = value.figures(truth.returns, imagined(fakes, truth, drift=0.2), seed=0, suffix="_undertrained")
    by_name = {figure.name: figure for figure in weak}
    assert by_name["value_pearson_undertrained"].value < 0.95
    assert by_name["value_gap_undertrained"].value > 0.1


def test_start_states_are_drawn_by_the_seed(truth):
    other = value.run_truth(replace(CONFIG, seed=1, horizon=1))
    assert len({frame.tobytes() for frame in truth.context_frames[:, 0]}) == CONFIG.num_starts
    assert not set(truth.start_seeds) & set(other.start_seeds)


def test_actions_only_finds_returns_that_are_in_the_actions(fakes, tmp_path):
    """Where the reward is a function of the action the regression finds it; the padding action is not used."""
    clips = fakes.record(40, 11, "train", [])
    clips = [replace(clip, rewards=(2 * clip.actions[:, 6] + 1).astype(np.float32)) for clip in clips]
    predict, fitted = value.fit_actions_only(ClipReader(fakes.write_clips(tmp_path, clips), "train"), horizon=10)
    assert fitted == 40
    actions = np.stack([clip.actions[:10] for clip in clips])
    expected = (2 * actions[..., 6] + 1).sum(-1)
    assert np.corrcoef(predict(actions), expected)[0, 1] > 0.99
    assert predict(actions.reshape(8, 5, 10, 7)).shape == (8, 5)


def test_actions_only_needs_episodes_with_rewards(fakes, tmp_path):
    clips = [replace(clip, rewards=None) for clip in fakes.record(25, 11, "train", [])]
    with pytest.raises(UserError, match="has 0 episodes of 10 rewarded steps"):
        value.fit_actions_only(ClipReader(fakes.write_clips(tmp_path, clips), "train"), horizon=10)

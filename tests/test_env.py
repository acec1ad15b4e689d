"""The world model as a Gymnasium environment: one episode, and many in one batch."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from tiny_clips import pixel_folder
from tiny_model import CARD, random_model

from whale.calibration import Calibration
from whale.clips.reader import ClipReader
from whale.env import EnvConfig, WorldModelEnv, WorldModelVectorEnv
from whale.episodes import action_range
from whale.errors import UserError
from whale.models.world_model import WorldModel
from whale.rollout import Imagination
from whale.uncertainty import Retracing


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return pixel_folder(tmp_path_factory.mktemp("clips") / "pixels")


@pytest.fixture(scope="module")
def config(clips):
    return EnvConfig(clips=clips, context_frames=3, horizon=5)


def ending(model: WorldModel, bias: float, spread: float = 0.0) -> WorldModel:
    """The model with a logit of termination that is `bias`, and varies `spread` times as at random."""
    head = model.dynamics.outcome[-1]
    head.weight.data[1] *= spread
    head.bias.data[1] = bias
    return model


@pytest.fixture(scope="module")
def endless():
    return ending(random_model(), -9)


def action(seed=0, num=None):
    low, high = action_range(CARD)
    return np.random.default_rng(seed).uniform(low, high, (7,) if num is None else (num, 7)).astype(np.float32)


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_gymnasium_finds_nothing_to_warn_of(endless, config, temperature):
    config = replace(config, temperature=temperature, retracing=Retracing())
    spec = EnvSpec("WorldModel-v0", entry_point="whale.env:WorldModelEnv", kwargs={"model": endless, "config": config})
    check_env(gymnasium.make(spec, render_mode="rgb_array").unwrapped)


def test_an_episode_is_the_imagination_of_its_recorded_start(endless, config, clips):
    """Differential: the environment against the model asked directly."""
    env = WorldModelEnv(endless, config, render_mode="rgb_array")
    reader = ClipReader(clips, "val")
    clip = reader.read(2)
    frame, info = env.reset(seed=0, options={"episode": clip.info.episode})
    imagination = Imagination(endless, clip.frames[None, :3], clip.actions[None, :2], "tabletop", 0.2)
    assert (info["episode_id"], info["step"]) == (clip.info.episode, 0)
    assert np.array_equal(frame, imagination.frame()[0])
    assert np.array_equal(info["tokens"], endless.encode(clip.frames[2:3])[0])
    for t in range(5):
        act = action(t)
        frame, reward, terminated, truncated, info = env.step(act)
        expected = imagination.step(act[None])
        assert np.array_equal(frame, imagination.frame()[0]) and np.array_equal(env.render(), frame)
        assert reward == np.float32(expected.reward[0])
        assert info["termination_probability"] == np.float32(expected.terminated[0])
        assert np.array_equal(info["tokens"], expected.tokens[0])
        assert (terminated, truncated, info["step"]) == (False, t == 4, t + 1)


def test_the_seed_draws_the_start_and_what_is_dreamt(endless, config):
    env = WorldModelEnv(endless, replace(config, temperature=1.0))

    def play(seed):
        names, tokens = [], []
        _, info = env.reset(seed=seed)
        for k in range(6):
            names.append(info["episode_id"])
            tokens.append(env.step(action())[4]["tokens"])
            if k < 5:
                _, info = env.reset()
        return names, np.stack(tokens)

    first, again, other = play(3), play(3), play(4)
    assert first[0] == again[0] and np.array_equal(first[1], again[1])
    assert first[0] != other[0] and len(set(first[0])) > 2
    drawn = {env.reset(seed=s, options={"episode": first[0][0]})[1]["episode_id"] for s in range(3)}
    assert drawn == {first[0][0]}
    tokens = [env.reset(seed=s, options={"episode": first[0][0]}) and env.step(action())[4]["tokens"] for s in (1, 2)]
    assert not np.array_equal(*tokens)


def test_it_terminates_where_that_is_more_likely_than_not(config):
    for bias, expected in ((0.1, True), (-0.1, False)):
        env = WorldModelEnv(ending(random_model(), bias), config)
        env.reset(seed=0)
        _, _, terminated, truncated, info = env.step(action())
        assert (terminated, truncated) == (expected, False)
        assert info["termination_probability"] == pytest.approx(1 / (1 + np.exp(-bias)))


def same(a, b):
    """Whether two infos, or parts of them, hold the same to the bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype


def row_of(infos, i):
    """The info of one row, without the masks of Gymnasium's vector form."""
    return {
        key: row_of(value, i) if isinstance(value, dict) else value[i]
        for key, value in infos.items()
        if f"_{key}" in infos and infos[f"_{key}"][i]
    }


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_a_row_is_what_one_environment_gives(config, temperature):
    """In fp64 to the bit: frames, rewards, ends and infos, over several episodes that end at different times."""
    model = ending(random_model(), -1, spread=40.0)
    config = replace(config, horizon=7, temperature=temperature, retracing=Retracing())
    many = WorldModelVectorEnv(model, config, 3)
    single = [WorldModelEnv(model, config) for _ in range(3)]
    frames, infos = many.reset(seed=20)
    for i, env in enumerate(single):
        frame, info = env.reset(seed=20 + i)
        assert np.array_equal(frame, frames[i]) and same(info, row_of(infos, i))
    ended, ends = np.zeros(3, bool), []
    for t in range(11):
        actions, before = action(t, 3), ended
        frames, rewards, terminated, truncated, infos = many.step(actions)
        ended = terminated | truncated
        ends.append(ended)
        for i, env in enumerate(single):
            if before[i]:
                frame, info = env.reset()
                assert (rewards[i], terminated[i], truncated[i]) == (0, False, False)
            else:
                frame, *results, info = env.step(actions[i])
                assert results == [rewards[i], terminated[i], truncated[i]]
            assert np.array_equal(frame, frames[i]) and same(info, row_of(infos, i))
    assert many.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert any(0 < row.sum() < 3 for row in ends) and sum(ends).max() > 1  # some ended while others went on


def test_wrappers_of_gymnasium_go_around_it(endless, config):
    """Their own keys of the info are free."""
    env = gymnasium.wrappers.RecordEpisodeStatistics(WorldModelEnv(endless, config))
    env.reset(seed=0)
    assert [env.step(action(t))[4] for t in range(5)][-1]["episode"]["l"] == 5
    many = gymnasium.wrappers.vector.RecordEpisodeStatistics(WorldModelVectorEnv(endless, config, 2))
    many.reset(seed=0)
    assert [many.step(action(t, 2))[4] for t in range(5)][-1]["episode"]["l"].tolist() == [5, 5]


def test_rows_that_all_end_at_the_horizon_begin_again_together(endless, config):
    many = WorldModelVectorEnv(endless, config, 2, render_mode="rgb_array")
    many.reset(seed=np.array([5, 6]))
    ends = [many.step(action(t, 2))[3].tolist() for t in range(11)]
    assert ends == ([[False] * 2] * 4 + [[True] * 2] + [[False] * 2]) * 1 + [[False] * 2] * 4 + [[True] * 2]
    assert len(many.render()) == 2 and many.render()[0].shape == (16, 16, 3)


def test_episodes_are_named_for_all_rows_or_for_each(endless, config):
    many = WorldModelVectorEnv(endless, config, 2)
    names = ["seed 13", "seed 15"]
    assert many.reset(options={"episode": names})[1]["episode_id"].tolist() == names
    assert many.reset(options={"episode": "seed 14"})[1]["episode_id"].tolist() == ["seed 14"] * 2


def test_spaces(endless, config):
    env = WorldModelEnv(endless, config)
    assert env.observation_space.shape == (16, 16, 3) and env.observation_space.dtype == np.uint8
    np.testing.assert_allclose(env.action_space.low, [-0.075] * 3 + [-1] * 3 + [0])
    np.testing.assert_allclose(env.action_space.high, [0.075] * 3 + [1] * 3 + [1])
    low, high = action_range(replace(CARD, action_type="joint", action_low=(-2.0,) * 7, action_high=(-1.0,) * 7))
    np.testing.assert_allclose(low, [-2.25] * 3 + [-1] * 3 + [-2.25])
    np.testing.assert_allclose(high, [-0.75] * 3 + [1] * 3 + [-0.75])
    low, high = action_range(replace(CARD, action_type="planar", action_low=(-2.0,) * 7, action_high=(1.0,) * 7))
    np.testing.assert_allclose(high, [3, 3, 3, 1, 1, 1, 3])
    assert np.array_equal(low, -high) and low.dtype == high.dtype == np.float32


def test_what_is_not_actuated_is_not_read(endless, config):
    env = WorldModelEnv(endless, replace(config, retracing=Retracing()))
    tokens = []
    for turn in (0.0, 0.9):
        env.reset(seed=0)
        act = action()
        act[3:6] = turn
        tokens.append([env.step(act)[4]["uncertainty"]["mean"] for _ in range(3)])
    assert tokens[0] == tokens[1]


def test_bad_actions_are_refused_and_the_episode_goes_on(endless, config):
    env = WorldModelEnv(endless, config)
    with pytest.raises(UserError, match="has not begun"):
        env.step(action())
    env.reset(seed=0)
    for bad, message in (
        (action() * 100, "outside of"),
        (np.full(7, np.nan, np.float32), "dx = nan"),
        (np.zeros(6, np.float32), r"shape \(1, 6\)"),
        (np.array(["a"] * 7), "give numbers"),
    ):
        with pytest.raises(UserError, match=message):
            env.step(bad)
    assert [env.step(action())[3] for _ in range(5)][-1]
    with pytest.raises(UserError, match="call reset"):
        env.step(action())
    many = WorldModelVectorEnv(endless, config, 2, render_mode="rgb_array")
    for early in (lambda: many.step(action(0, 2)), many.render):
        with pytest.raises(UserError, match="no episode has begun"):
            early()
    many.reset()
    outside = action(0, 2)
    outside[1, 6] = 1.5
    with pytest.raises(UserError, match=r"episode 1 has gripper = 1.5, outside of 0 to 1"):
        many.step(outside)
    outside[1] = np.nan
    assert [many.step(action(t, 2))[3].tolist() for t in range(5)][-1] == [True, True]
    many.step(outside)  # which both rows ignore
    with pytest.raises(UserError, match="for each of the 2 rows"):
        many.reset(seed=[1])


def test_bad_starts_are_refused(endless, config, clips):
    with pytest.raises(UserError, match=r"no episode 'seed 3'.*\n.*'seed 13'"):
        WorldModelEnv(endless, config).reset(options={"episode": "seed 3"})
    with pytest.raises(UserError, match=r"no episode that begins with 11 frames.*longest clip has 10"):
        WorldModelEnv(endless, replace(config, context_frames=11))
    with pytest.raises(UserError, match="2 frames back, and the context has 2"):
        WorldModelEnv(endless, replace(config, context_frames=2, retracing=Retracing(steps=(0, 2)))).reset()
    with pytest.raises(UserError, match=r"not trained on 'tabletop', only on \['bridge'\]"):
        WorldModelEnv(random_model(datasets=("bridge",)), config)


def test_clips_of_other_actions_are_refused(config):
    model = random_model()
    model.config.datasets["tabletop"] = replace(CARD, action_type="joint")
    with pytest.raises(UserError, match=r"holds eef_delta actions.*, the model knows joint actions"):
        WorldModelEnv(model, config)


def test_a_row_that_waits_is_fed_what_the_dataset_may_have(endless, config):
    """A joint that hardly leaves an angle: 0 would be far from all that the model knows."""
    model = ending(random_model(), 9)
    card = replace(CARD, action_low=(0.5,) * 7, action_high=(0.51,) * 7)
    model.config.datasets["tabletop"] = card
    many = WorldModelVectorEnv(model, replace(config, context_frames=1), 1)
    many.reset(seed=0)
    assert many.step(np.full((1, 7), 0.505, np.float32))[2].all()
    assert not many.step(np.zeros((1, 7), np.float32))[2].any()


def test_frames_of_another_size_are_refused(endless, config, tmp_path):
    folder = pixel_folder(tmp_path / "large", train=1, val=1, steps=4, size_px=32)
    with pytest.raises(UserError, match=r"takes frames of 16 px, .* has 32 px"):
        WorldModelEnv(endless, replace(config, clips=folder)).reset()


def test_rows_do_not_retrace_every_other_frame(config):
    with pytest.raises(ValueError, match="every must be 1"):
        replace(config, retracing=Retracing(every=2))


def calibrated(model, error=(3.0, 9.0), **changes):
    values = {"weights": "", "signal": "top", "retracing": Retracing(), "dataset": "tabletop", "clips": "",
              "episodes": 1, "frames": 1, "context_frames": 3, "horizon": 9} | changes  # fmt: skip
    model.calibration = Calibration(uncertainty=(0.0, 1e9)[: len(error)], error=error, **values)
    return model


def test_an_expected_error_grows_with_the_uncertainty_on_the_way_and_truncates(config):
    """A calibration in closed form: 3 grey levels and half the accumulated uncertainty."""
    model, limits, lengths = calibrated(ending(random_model(), -9), error=(3.0, 3.0 + 0.5e9)), (None, 1e6, 3.0001), []
    for limit in limits:
        env = WorldModelEnv(model, replace(config, retracing=Retracing(), max_error=limit))
        assert "expected_error" not in env.reset(seed=0)[1]
        total, truncated = 0.0, False
        while not truncated:
            *_, truncated, info = env.step(action(0))
            total += info["uncertainty"]["top"]
            assert info["expected_error"] == pytest.approx(3 + total / 2, rel=1e-5)
            assert truncated == (info["step"] == 5 or (limit is not None and info["expected_error"] > limit))
        lengths.append(info["step"])
    assert lengths == [5, 5, 1] and total > 0.001


def test_a_largest_error_needs_a_calibration_that_fits(config):
    limited = replace(config, retracing=Retracing(), max_error=5.0)
    with pytest.raises(UserError, match=r"(?s)no calibration.*whale eval uncertainty"):
        WorldModelEnv(random_model(), limited)
    other = calibrated(ending(random_model(), -9), retracing=Retracing(steps=(0, 2)))
    with pytest.raises(UserError, match=r"(?s)calibrated on.*\(0, 2\).*whale eval uncertainty"):
        WorldModelEnv(other, limited)
    with pytest.raises(UserError, match=r"max_error is 9 grey levels.*errors up to 9 only"):
        WorldModelEnv(calibrated(ending(random_model(), -9)), replace(limited, max_error=9.0))
    env = WorldModelEnv(other, replace(limited, max_error=None))  # what does not fit is not shown
    env.reset(seed=0)
    assert "expected_error" not in env.step(action())[4]
    with pytest.raises(ValueError, match="give retracing too"):
        replace(config, max_error=5.0)

import functools
import itertools
from collections.abc import Iterable

import numpy as np
import pytest

from whale.sim.base import Camera
from whale.sim.policies import SKILLS, TabletopPolicy
from whale.sim.tabletop import MAX_STEP_M, SHIFTED_CAMERA, SHIFTED_PALETTE, Palette, Tabletop

STEPS = 36
VIEWS = {"plain": (Camera(), Palette()), "shifted": (SHIFTED_CAMERA, SHIFTED_PALETTE)}


def play(skill: str, seeds: Iterable[int], view: str = "plain", steps: int = STEPS) -> dict[str, np.ndarray]:
    """Actions [T, N, 7], rewards [T, N] and success [1, N] of one policy from the start states of `seeds`."""
    seeds = np.fromiter(seeds, int)
    camera, palette = VIEWS[view]
    world = Tabletop(len(seeds), camera, palette)
    world.reset(seeds)
    policy = TabletopPolicy(SKILLS[skill], seeds, camera, palette)
    actions, rewards = [], []
    for _ in range(steps):
        actions.append(policy.act(world.render()))
        rewards.append(world.step(actions[-1])[0])
    return {"actions": np.stack(actions), "rewards": np.stack(rewards), "success": world.success()[None]}


@functools.cache
def value(skill: str, view: str = "plain") -> float:
    """Mean return over 16 start states."""
    return float(play(skill, range(16), view)["rewards"].sum(0).mean())


def test_there_are_twelve():
    assert len(SKILLS) == 12


@pytest.mark.parametrize("skill", SKILLS)
def test_a_run_is_repeated_exactly_and_a_scene_in_a_batch_equals_it_alone(skill):
    together = play(skill, [5, 6, 7], steps=20)
    alone = play(skill, [6], steps=20)
    for name, whole in together.items():
        np.testing.assert_array_equal(whole[:, 1:2], alone[name])
    assert not np.array_equal(together["actions"][:, 0], together["actions"][:, 1])


@pytest.mark.parametrize("skill", SKILLS)
def test_actions_are_what_the_arm_can_do(skill):
    actions = play(skill, range(4), steps=20)["actions"]
    assert actions.dtype == np.float32
    assert np.abs(actions[..., :3]).max() <= np.float32(MAX_STEP_M)
    assert (actions[..., 3:6] == 0).all()
    assert set(np.unique(actions[..., 6])) <= {0.0, 1.0}


def test_the_seed_of_a_policy_is_not_that_of_the_scene_alone():
    camera, palette = VIEWS["plain"]
    world = Tabletop(2, camera, palette)
    world.reset(np.array([3, 3]))
    images = world.render()
    np.testing.assert_array_equal(images[0], images[1])
    actions = TabletopPolicy(SKILLS["noisy"], np.array([1, 2]), camera, palette).act(images)
    assert not np.array_equal(actions[0], actions[1])


def test_values_are_graded():
    values = {skill: value(skill) for skill in SKILLS}
    graded = ["expert", "steady", "slow", "pusher", "random", "saboteur"]
    assert all(values[better] > values[worse] for better, worse in itertools.pairwise(graded))
    assert values["expert"] == max(values.values()) and values["saboteur"] == min(values.values())
    assert values["expert"] > 3 * values["random"]
    gaps = [high - low for low, high in itertools.pairwise(sorted(values.values()))]
    assert sum(gap > 0.1 for gap in gaps) >= 9  # no heap of equal ones


@pytest.mark.parametrize("view", VIEWS)
def test_the_expert_succeeds_and_the_random_policy_does_not(view):
    assert play("expert", range(16), view)["success"].mean() >= 0.9
    assert play("random", range(16), view)["success"].mean() <= 0.1


@pytest.mark.parametrize("skill", ["expert", "slow", "pusher", "random"])
def test_values_carry_over_to_the_shifted_camera_and_palette(skill):
    assert value(skill, "shifted") == pytest.approx(value(skill), abs=2.5)


@pytest.mark.parametrize("view", VIEWS)
def test_colours_are_far_enough_apart_to_be_told_apart(view):
    palette = VIEWS[view][1]
    looked_for = ("goal", "disc", "other", "gripper_open", "gripper_closed")
    for name in looked_for:
        for against in {*vars(palette)} - {name}:
            difference = np.abs(np.subtract(getattr(palette, name), getattr(palette, against))).max()
            assert difference >= 70, (name, against)

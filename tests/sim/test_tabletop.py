import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whale.actions import ActionStatus
from whale.sim.base import Camera
from whale.sim.tabletop import (
    ACTION_STATUS,
    DISC_RADIUS_M,
    EDGE_M,
    LIFT_MAX_M,
    MAX_STEP_M,
    PUSH_RADIUS_M,
    REACH_HALF_M,
    SHIFTED_CAMERA,
    SHIFTED_PALETTE,
    TABLE_HALF_M,
    Palette,
    Tabletop,
)

FAR = [-0.2, -0.2]


def world_of(seeds, camera=None, palette=None) -> Tabletop:
    world = Tabletop(len(seeds), camera or Camera(), palette or Palette())
    world.reset(np.asarray(seeds))
    return world


def scene(gripper, disc, other=FAR, goal=(0.15, 0.15)) -> Tabletop:
    """One scene with everything where the test wants it."""
    world = world_of([0])
    world.gripper[:], world.discs[:], world.goal[:] = [gripper], [[disc, other]], [goal]
    return world


def action(dx=0.0, dy=0.0, dz=0.0, gripper=1.0) -> np.ndarray:
    return np.array([[dx, dy, dz, 0, 0, 0, gripper]], np.float32)


def random_actions(rng: np.random.Generator, steps: int, scenes: int) -> np.ndarray:
    actions = rng.uniform(-1.5 * MAX_STEP_M, 1.5 * MAX_STEP_M, (steps, scenes, 7)).astype(np.float32)
    actions[..., 2] = rng.choice([-0.05, 0.02], (steps, scenes))
    actions[..., 6] = rng.random((steps, scenes)) < 0.5
    return actions


def play(world: Tabletop, actions: np.ndarray) -> list[np.ndarray]:
    """Rewards [T, N], terminations [T, N], frames [T, N, H, W, 3] and final discs."""
    rewards, terminated, frames = [], [], []
    for step in actions:
        frames.append(world.render())
        reward, over = world.step(step)
        rewards.append(reward)
        terminated.append(over)
    return [np.stack(rewards), np.stack(terminated), np.stack(frames), world.discs.copy()[None]]


# Determinism


def test_a_scene_depends_on_its_own_seed_alone():
    together, alone = world_of([3, 4, 5]), world_of([4])
    for name, value in alone.state().items():
        np.testing.assert_array_equal(together.state()[name][1:2], value)
    assert not np.array_equal(together.goal[0], together.goal[1])


@pytest.mark.parametrize(("camera", "palette"), [(Camera(), Palette()), (SHIFTED_CAMERA, SHIFTED_PALETTE)])
def test_a_scene_in_a_batch_equals_it_alone(camera, palette):
    seeds = [11, 12, 13, 14]
    actions = random_actions(np.random.default_rng(0), 20, len(seeds))
    together = play(world_of(seeds, camera, palette), actions)
    for i, seed in enumerate(seeds):
        alone = play(world_of([seed], camera, palette), actions[:, i : i + 1])
        for whole, part in zip(together, alone, strict=True):
            np.testing.assert_array_equal(whole[:, i : i + 1], part)


def test_a_state_read_and_set_again_continues_identically():
    world, actions = world_of([1, 2, 3]), random_actions(np.random.default_rng(1), 30, 3)
    play(world, actions[:10])
    saved = world.state()
    kept = {name: value.copy() for name, value in saved.items()}
    first = play(world, actions[10:])
    for name, value in kept.items():
        np.testing.assert_array_equal(saved[name], value)  # a copy: stepping on did not change it
    other = world_of([7, 8, 9])
    other.set_state(saved)
    for one, two in zip(first, play(other, actions[10:]), strict=True):
        np.testing.assert_array_equal(one, two)
    for name, value in kept.items():
        np.testing.assert_array_equal(saved[name], value)


def test_objects_start_apart_and_the_gripper_open_and_raised():
    world = world_of(range(200))
    points = np.concatenate([world.discs, world.goal[:, None]], 1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(points[:, a] - points[:, b], axis=-1).min() >= 0.12
    assert (world.gripper[:, 2] == LIFT_MAX_M).all() and not world.closed.any() and (world.held == -1).all()
    assert (np.abs(points) < TABLE_HALF_M).all()


# Motion


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25)
def test_rewards_lie_in_bounds_and_the_gripper_in_reach(seed):
    world = world_of([seed])
    for step in random_actions(np.random.default_rng(seed), 30, 1):
        before = world.gripper.copy()
        reward, _ = world.step(step)
        assert reward.dtype == np.float32 and 0 <= reward[0] <= 1.1
        assert np.abs(world.gripper - before).max() <= MAX_STEP_M + 1e-9
        assert np.abs(world.gripper[:, :2]).max() <= REACH_HALF_M
        assert 0 <= world.gripper[0, 2] <= LIFT_MAX_M


def test_the_reward_is_greatest_with_the_disc_held_on_the_goal():
    world = scene(gripper=[0.1, 0.1, 0.0], disc=[0.1, 0.1], goal=(0.1, 0.1))
    reward, _ = world.step(action(gripper=0.0))
    assert reward[0] == pytest.approx(1.1)
    assert world.success().all()


def test_the_reward_falls_as_the_disc_lies_farther_from_the_goal():
    rewards = [
        scene(gripper=[-0.2, 0.2, LIFT_MAX_M], disc=[0.0, 0.0], goal=(x, 0.0)).step(action())[0][0]
        for x in (0.0, 0.05, 0.1, 0.2)
    ]
    assert rewards == sorted(rewards, reverse=True) and len(set(rewards)) == 4


def test_rotations_are_fixed_and_change_nothing():
    turned = action(0.03, -0.02, -0.01)
    turned[:, 3:6] = 1.0
    one, two = world_of([5]), world_of([5])
    one.step(action(0.03, -0.02, -0.01))
    two.step(turned)
    for name, value in one.state().items():
        np.testing.assert_array_equal(two.state()[name], value)
    expected = [ActionStatus.ACTUATED] * 3 + [ActionStatus.FIXED] * 3 + [ActionStatus.ACTUATED]
    assert list(ACTION_STATUS) == expected


@pytest.mark.parametrize("shape", [(1, 6), (2, 7), (7,)])
def test_actions_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"this world takes \(1, 7\)"):
        world_of([0]).step(np.zeros(shape, np.float32))


# Pushing


def test_a_lowered_gripper_shoves_a_disc_ahead_of_it():
    world = scene(gripper=[-0.06, 0.0, 0.0], disc=[0.0, 0.0])
    world.step(action(dx=0.03))
    np.testing.assert_allclose(world.discs[0, 0], [-0.03 + PUSH_RADIUS_M, 0.0])
    np.testing.assert_array_equal(world.discs[0, 1], FAR)


def test_a_disc_beside_the_path_is_shoved_aside():
    world = scene(gripper=[-0.04, 0.0, 0.0], disc=[0.0, 0.03])
    world.step(action(dx=0.04))
    assert world.discs[0, 0, 1] > 0.03
    assert np.linalg.norm(world.discs[0, 0] - world.gripper[0, :2]) == pytest.approx(PUSH_RADIUS_M)


def test_a_raised_gripper_passes_over_discs():
    world = scene(gripper=[-0.06, 0.0, LIFT_MAX_M], disc=[0.0, 0.0])
    for _ in range(3):
        world.step(action(dx=0.03))
    np.testing.assert_array_equal(world.discs[0, 0], [0.0, 0.0])


# Grasping and carrying


def test_a_held_disc_moves_as_the_gripper_does_until_it_is_let_go():
    world = scene(gripper=[0.01, 0.0, 0.0], disc=[0.0, 0.0])
    world.step(action(gripper=0.0))
    assert world.held[0] == 0
    for dx, dy, dz in ((0.05, 0.0, 0.05), (0.02, -0.04, 0.0), (-0.01, 0.03, -0.02)):
        before = world.discs[0, 0].copy()
        world.step(action(dx, dy, dz, gripper=0.0))
        np.testing.assert_allclose(world.discs[0, 0] - before, [dx, dy], atol=1e-8)
    released_at = world.discs[0, 0].copy()
    world.step(action(dz=0.05, gripper=1.0))
    world.step(action(dx=0.05, gripper=1.0))
    assert world.held[0] == -1
    np.testing.assert_array_equal(world.discs[0, 0], released_at)
    np.testing.assert_array_equal(world.discs[0, 1], FAR)


def test_a_carried_disc_stops_where_the_gripper_stops():
    world = scene(gripper=[REACH_HALF_M - 0.01, 0.0, 0.0], disc=[REACH_HALF_M - 0.01, 0.0])
    world.step(action(gripper=0.0))
    world.step(action(dx=0.05, gripper=0.0))
    assert world.discs[0, 0, 0] == pytest.approx(REACH_HALF_M)


def test_a_raised_or_distant_gripper_grasps_nothing():
    for gripper in ([0.0, 0.0, LIFT_MAX_M], [0.04, 0.0, 0.0]):
        world = scene(gripper=gripper, disc=[0.0, 0.0])
        world.step(action(gripper=0.0))
        assert world.held[0] == -1


def test_the_nearer_disc_is_grasped():
    world = scene(gripper=[0.01, 0.0, 0.0], disc=[-0.012, 0.0], other=[0.02, 0.0])
    world.step(action(gripper=0.0))
    assert world.held[0] == 1


# Termination


def shoved_off() -> Tabletop:
    world = scene(gripper=[EDGE_M - 0.075, 0.0, 0.0], disc=[EDGE_M - 0.025, 0.0])
    assert not world.step(action(dx=0.02))[1][0]
    reward, terminated = world.step(action(dx=0.02))
    assert terminated[0] and reward[0] > 0  # the step that ends the episode is still scored
    return world


def test_a_scene_ends_when_the_disc_leaves_the_table_and_stays_as_it_is():
    world = shoved_off()
    saved, frame = world.state(), world.render()
    reward, terminated = world.step(action(dx=-0.05, dz=0.05, gripper=0.0))
    assert terminated[0] and reward[0] == 0 and not world.success()[0]
    for name, value in saved.items():
        np.testing.assert_array_equal(world.state()[name], value)
    np.testing.assert_array_equal(world.render(), frame)


def test_reset_begins_anew_after_termination():
    world = shoved_off()
    world.reset(np.array([0]))
    assert not world.terminated.any()
    assert world.step(action())[0][0] > 0


def test_the_other_disc_may_leave_the_table():
    world = scene(gripper=[EDGE_M - 0.05, 0.0, 0.0], disc=[-0.1, 0.1], other=[EDGE_M, 0.0])
    for _ in range(2):
        _, terminated = world.step(action(dx=0.02))
    assert world.discs[0, 1, 0] > EDGE_M and not terminated[0]


# Images


def test_the_pixel_grid_covers_the_camera_view():
    x, y = Camera(size_px=4, width_m=0.4).pixel_grid()
    np.testing.assert_allclose(x[0], [-0.15, -0.05, 0.05, 0.15], rtol=1e-6)
    np.testing.assert_allclose(y[:, 0], [0.15, 0.05, -0.05, -0.15], rtol=1e-6)  # the first row is the top


def test_a_turned_camera_sees_the_same_scene_turned_the_other_way():
    for quarter in range(4):
        turned = world_of([21, 22], Camera(rotation_rad=quarter * np.pi / 2)).render()
        straight = np.rot90(world_of([21, 22]).render(), k=-quarter, axes=(1, 2))
        assert np.abs(turned.astype(int) - straight.astype(int)).max() <= 1


def test_a_wider_camera_shows_the_same_things_smaller():
    def disc_pixels(width_m: float) -> int:
        world = scene(gripper=[-0.2, -0.2, LIFT_MAX_M], disc=[0.0, 0.1])
        world.camera = Camera(size_px=128, width_m=width_m)
        return int((world.render() == world.palette.disc).all(-1).sum())

    assert disc_pixels(0.5) / disc_pixels(0.75) == pytest.approx(1.5**2, rel=0.1)


@pytest.mark.parametrize(("camera", "palette"), [(Camera(), Palette()), (SHIFTED_CAMERA, SHIFTED_PALETTE)])
def test_things_are_drawn_where_they_are_in_their_colours(camera, palette):
    world = world_of([0], camera, palette)
    world.gripper[:], world.discs[:], world.goal[:] = [[-0.1, 0.1, 0.0]], [[[0.1, 0.05], [0.05, -0.1]]], [[-0.1, -0.1]]
    image = world.render()
    assert image.shape == (1, 64, 64, 3) and image.dtype == np.uint8
    x, y = camera.pixel_grid()
    for point, colour in (((0.1, 0.05), palette.disc), ((0.05, -0.1), palette.other), ((-0.1, -0.1), palette.table)):
        nearest = np.unravel_index(np.hypot(x - point[0], y - point[1]).argmin(), x.shape)
        np.testing.assert_array_equal(image[0][nearest], colour)
    inside = np.hypot(x - 0.1, y - 0.05) < DISC_RADIUS_M - 0.01
    assert (image[0][inside] == palette.disc).all()


def test_the_gripper_shows_whether_it_is_open():
    world = world_of([0])
    for closed, colour in ((False, world.palette.gripper_open), (True, world.palette.gripper_closed)):
        world.closed[:] = closed
        assert (world.render() == colour).all(-1).any()
        assert world.proprio()[0, 3] == (not closed)


def test_proprioception_is_where_the_gripper_is():
    world = world_of([1, 2])
    proprio = world.proprio()
    assert proprio.dtype == np.float32 and proprio.shape == (2, 4)
    np.testing.assert_allclose(proprio[:, :3], world.gripper, rtol=1e-6)

"""The planner on a world whose best plan is known: a mark on a line of 32 cells that an action moves two at most."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_model import CARD, tiny_config

from whale.errors import UserError
from whale.models.dynamics import Prediction
from whale.models.world_model import WorldModel
from whale.planner import GRIPPER, ActionRange, Planner, PlannerConfig, coloured_noise
from whale.rollout import Imagination
from whale.uncertainty import Retracing

CELLS, TARGET, MIRAGE = 32, 14, 24
CONFIG = PlannerConfig(horizon=6, candidates=128, iterations=8, elites=10, hold=1, colour=1.0, spread=0.8)


class Line(WorldModel):
    """All tokens of a frame say where the mark is; the reward is minus its distance from the target, in cells.

    `believes`: from `MIRAGE` on, the model thinks that whatever is done leads to the last cell and pays 50. So one step
    from there says otherwise than two steps in one that began before it: what retracing sees.
    """

    believes = False
    grips = False
    """Pay 5 more for a closed gripper on the target, and 5 less for one elsewhere."""

    def encode(self, frames):
        cell_N = torch.from_numpy(frames[:, 0, 0, 0]).long()
        return cell_N[:, None].expand(-1, self.config.tokenizer.tokens_per_frame).numpy()

    def predict(self, tokens_BTS, action_BTF, *_):
        cell_BT, action_BTA = tokens_BTS[..., 0], action_BTF[..., :7]
        move_BT = torch.round(2 * action_BTA[..., 0]).long()
        next_BT = (cell_BT + move_BT).clamp(0, CELLS - 1)
        reward_BT = -(next_BT - TARGET).abs().double()
        if self.grips:
            closed = action_BTA[..., GRIPPER] < 0
            reward_BT = reward_BT + 5.0 * closed * torch.where(next_BT == TARGET, 1.0, -1.0)
        if self.believes:
            fooled = cell_BT >= MIRAGE
            next_BT = torch.where(fooled, CELLS - 1, next_BT)
            reward_BT = torch.where(fooled, 50.0, reward_BT)
        logits = 50.0 * torch.nn.functional.one_hot(next_BT, CELLS).double()
        logits_BTSV = logits[:, :, None].expand(-1, -1, tokens_BTS.shape[2], -1)
        return Prediction(logits_BTSV, reward_BT, torch.full_like(reward_BT, -100.0))


@pytest.fixture
def line():
    config = tiny_config()
    card = replace(CARD, reward_mean=0.0, reward_std=1.0)
    model = Line(replace(config, datasets={"tabletop": card})).double().eval()
    codebook_VC = model.tokenizer.quantizer.codebook_VC
    codebook_VC.copy_(torch.arange(CELLS)[:, None].expand_as(codebook_VC))  # codes lie as cells do
    return model


def picture(cells):
    """Frames uint8 [N, 16, 16, 3] of marks in these cells."""
    return np.broadcast_to(np.array(cells, np.uint8)[:, None, None, None], (len(cells), 16, 16, 3)).copy()


def imagination(model, cells, **arguments):
    still = np.zeros((len(cells), 1, 7), np.float32)
    return Imagination(model, np.stack([picture(cells)] * 2, 1), still, "tabletop", 0.2, **arguments)


def planner(model, seeds, config=CONFIG, **changes):
    return Planner("tabletop", model.config.datasets["tabletop"], replace(config, **changes), seeds)


def walk(cells, actions):
    """Where the marks truly go: [N, H] cells."""
    moves = np.round(2 * np.asarray(actions)[..., 0] / 0.05).astype(int)
    path = []
    for step in range(moves.shape[1]):
        cells = np.clip(cells + moves[:, step], 0, CELLS - 1)
        path.append(cells)
    return np.stack(path, 1)


def test_it_finds_the_best_plan(line):
    """From 5 and 20: as fast as can be to 14, and to stay there."""
    plan = planner(line, [0, 1]).plan(imagination(line, [5, 20]))
    assert plan.actions.shape == (2, 6, 7) and plan.actions.dtype == np.float32
    found = walk(np.array([5, 20]), plan.actions)
    np.testing.assert_array_equal(found, [[7, 9, 11, 13, 14, 14], [18, 16, 14, 14, 14, 14]])
    np.testing.assert_allclose(plan.cost, [7 + 5 + 3 + 1, 4 + 2])


def test_actions_lie_within_the_data_and_a_gripper_is_open_or_closed(line):
    line.grips = True
    plan = planner(line, [3]).plan(imagination(line, [10]))
    assert (np.abs(plan.actions[..., :3]) <= 0.05 + 1e-7).all()
    assert (plan.actions[..., 3:6] == 0).all()  # fixed
    assert plan.actions[0, :, GRIPPER].tolist() == [1, 0, 0, 0, 0, 0]  # 12, then 14 and on it
    assert plan.cost[0] == pytest.approx(2 - 5 * 5)


def test_later_plans_begin_with_what_was_found_and_are_no_worse(line):
    """With a single round of few draws a plan is poor, and is improved while it is done."""
    small, at = planner(line, [0], candidates=8, elites=4, iterations=1), imagination(line, [5])
    first = small.plan(at)
    for step in range(4):
        rest = np.concatenate([first.actions[:, 1:], first.actions[:, -1:]], 1)
        at.step(first.actions[:, 0])
        now = at.logits_BSV[:, 0].argmax(-1).numpy()
        second = small.plan(at, done=1)
        assert second.cost[0] <= np.abs(walk(now, rest) - TARGET).sum() + 1e-9, step
        first = second


def test_plans_depend_on_the_seed_and_not_on_the_batch(line):
    def plans(cells, seeds):
        at, one = imagination(line, cells), planner(line, seeds, iterations=1)
        first = one.plan(at)
        at.step(first.actions[:, 0])
        return np.concatenate([first.actions, one.plan(at).actions], 1)

    together = plans([5, 20, 9], [7, 8, 9])
    np.testing.assert_array_equal(together, plans([5, 20, 9], [7, 8, 9]))
    np.testing.assert_array_equal(together[1], plans([20], [8])[0])
    assert not np.array_equal(together[1], plans([20], [9])[0])


def test_planning_leaves_the_imagination_as_it_was(line):
    at, other = (imagination(line, [5], retracing=Retracing()) for _ in range(2))
    planner(line, [0], uncertainty_weight=1.0).plan(at)
    action = np.full((1, 7), 0.02, np.float32)
    assert np.array_equal(at.step(action).tokens, other.step(action).tokens)
    assert at.returns_B == other.returns_B and at.num_imagined_B == 1


def test_it_reaches_a_goal_that_is_an_image(line):
    at = imagination(line, [5, 20])
    plan = planner(line, [0, 1]).plan(at, goal=picture([12, 15]))
    assert walk(np.array([5, 20]), plan.actions)[:, -1].tolist() == [12, 15]
    np.testing.assert_allclose(plan.cost, 0, atol=1e-9)


def test_the_cost_of_uncertainty_keeps_it_from_where_the_model_is_wrong(line):
    """The model believes in riches beyond cell 24; retracing contradicts it there, and nowhere else."""
    line.believes = True
    start, ends = np.array([22]), {}
    for weight in (0.0, 1e3):
        at = imagination(line, [22], retracing=Retracing() if weight else None)
        plan = planner(line, [0], uncertainty_weight=weight).plan(at)
        ends[weight] = walk(start, plan.actions)[0]
    assert ends[0.0].max() >= MIRAGE
    assert ends[1e3].max() < MIRAGE and ends[1e3][-1] == TARGET


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("colour", [0.0, 2.0])
def test_noise_has_unit_variance_and_the_colour_asked_for(steps, colour):
    noise = coloured_noise(np.random.default_rng(0), 20_000, steps, 2, colour)
    assert noise.shape == (20_000, steps, 2)
    np.testing.assert_allclose(noise.var(0), 1, atol=0.06)
    assert abs(np.corrcoef(noise[:, 0, 0], noise[:, 0, 1])[0, 1]) < 0.03  # dimensions are apart
    if steps > 2:
        neighbours = np.corrcoef(noise[:, 0, 0], noise[:, 1, 0])[0, 1]
        assert abs(neighbours) < 0.03 if colour == 0 else neighbours > 0.3


def test_bad_input_is_refused(line):
    at, one = imagination(line, [5]), planner(line, [0])
    with pytest.raises(UserError, match=r"goal images are uint8 \(1, 8, 8, 3\)"):
        one.plan(at, goal=np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="goal images are float64"):
        one.plan(at, goal=picture([3]) / 255)
    with pytest.raises(UserError, match="has estimated no uncertainty"):
        planner(line, [0], uncertainty_weight=1.0).plan(at)
    with pytest.raises(UserError, match="plans for 1 episodes, the imagination holds 2"):
        one.plan(imagination(line, [5, 6]))
    with pytest.raises(UserError, match="has joint actions"):
        ActionRange("arm", replace(CARD, action_type="joint"))
    with pytest.raises(UserError, match="dimensions rx, gripper of 'arm' are unknown"):
        ActionRange("arm", replace(CARD, action_status=(2, 2, 2, 0, 1, 1, 0)))
    for wrong in ({"horizon": 0}, {"elites": 1}, {"elites": 8, "candidates": 8}, {"spread": 0.0}, {"colour": -1.0}):
        with pytest.raises(ValueError, match="must be"):
            PlannerConfig(**wrong)


class Mover:
    """Does the same whatever it sees."""

    def __init__(self, seeds, cells):
        self.action = np.zeros((len(seeds), 7), np.float32)
        self.action[:, 0] = 0.025 * cells

    def act(self, images):
        assert images.dtype == np.uint8 and images.shape == (len(self.action), 16, 16, 3)
        assert images.flags.c_contiguous and images.flags.writeable
        return self.action


def right(seeds):
    return Mover(seeds, 1)


def still(seeds):
    return Mover(seeds, 0)


def left(seeds):
    return Mover(seeds, -1)


def far(seeds):
    """Three cells a step, beyond all that the data has; it turns, which is fixed, and closes the gripper."""
    mover = Mover(seeds, 3)
    mover.action[:, 3] = 0.4
    return mover


class Tired:
    """Seven steps at random, by each episode's seed; then it raises."""

    def __init__(self, seeds):
        self.rngs, self.steps = [np.random.default_rng(seed) for seed in seeds], 0

    def act(self, images):
        self.steps += 1
        if self.steps > 7:
            raise RuntimeError("tired")
        return np.stack([rng.uniform(-0.05, 0.05, 7) for rng in self.rngs]).astype(np.float32)


PROPOSALS = tuple(f"test_planner:{name}" for name in ("still", "left", "right"))


def test_without_rounds_the_best_proposal_is_the_plan(line):
    cells = [TARGET - 6, TARGET + 6, TARGET]
    config = replace(CONFIG, proposals=PROPOSALS, iterations=0)
    plan = Planner("tabletop", line.config.datasets["tabletop"], config, [0, 1, 2], 16).plan(imagination(line, cells))
    assert np.allclose(plan.actions[..., 0], np.array([[0.025], [-0.025], [0.0]]), atol=1e-7)
    assert plan.cost.tolist() == [15.0, 15.0, 0.0]  # 5 + 4 + ... + 0


def test_rounds_go_on_from_the_proposals(line):
    """One cell a step is the best proposal, two are best of all; a planner without rounds enough does not find it."""
    card, cells = line.config.datasets["tabletop"], [TARGET - 11] * 2
    few = replace(CONFIG, candidates=12, elites=2, iterations=1, spread=0.3)
    best = sum(max(0, 11 - 2 * step) for step in range(1, 7))
    costs = {
        names: Planner("tabletop", card, replace(few, proposals=names), [3, 4], 16).plan(imagination(line, cells)).cost
        for names in ((), PROPOSALS)
    }
    alone = Planner("tabletop", card, replace(few, iterations=0, proposals=PROPOSALS), [3, 4], 16)
    proposed = alone.plan(imagination(line, cells)).cost
    assert (best <= costs[PROPOSALS]).all() and (costs[PROPOSALS] <= proposed).all()
    assert costs[PROPOSALS].mean() < costs[()].mean()


def test_an_end_that_was_foreseen_and_has_not_come_counts_for_nothing(line):
    at = imagination(line, [5])
    at.running_B[:] = 0.0
    assert planner(line, [0]).plan(at).cost[0] == pytest.approx(7 + 5 + 3 + 1)
    assert at.running_B == 0.0  # stays as it was


@pytest.mark.parametrize("gripper", [(0.0, 1.0), (1.0, 1.0)])
def test_a_proposal_is_planned_as_it_was_beyond_the_data_and_where_that_never_varies(line, gripper):
    low, high = gripper
    card = replace(CARD, action_low=(*CARD.action_low[:6], low), action_high=(*CARD.action_high[:6], high))
    config = replace(CONFIG, proposals=("test_planner:far",), iterations=0, horizon=3)
    plan = Planner("tabletop", card, config, [0], 16).plan(imagination(line, [TARGET - 9]))
    np.testing.assert_allclose(plan.actions[0], [[0.075, 0, 0, 0, 0, 0, 0]] * 3, atol=1e-7)
    assert plan.cost == 6 + 3
    refined = Planner("tabletop", card, replace(config, iterations=2), [0], 16).plan(imagination(line, [TARGET - 9]))
    assert np.isfinite(refined.actions).all() and refined.cost <= plan.cost


def test_proposals_reach_for_a_goal_image_and_pay_for_uncertainty(line):
    config = replace(CONFIG, proposals=PROPOSALS, iterations=0)
    one = Planner("tabletop", line.config.datasets["tabletop"], config, [0, 1], 16)
    plan = one.plan(imagination(line, [5, 20]), goal=picture([11, 14]))
    assert walk(np.array([5, 20]), plan.actions)[:, -1].tolist() == [11, 14]
    line.believes, ends = True, []
    for weight in (0.0, 1e3):
        one = Planner("tabletop", CARD, replace(config, uncertainty_weight=weight), [0], 16)
        plan = one.plan(imagination(line, [MIRAGE - 2], retracing=Retracing()))
        ends.append(walk(np.array([MIRAGE - 2]), plan.actions)[0, -1])
    assert ends[0] > MIRAGE > ends[1]


def test_proposals_depend_on_the_seed_and_not_on_the_batch(line):
    config = replace(CONFIG, proposals=("test_planner:right", "test_planner:Tired"), iterations=1)

    def plans(cells, seeds):
        return Planner("tabletop", CARD, config, seeds, 16).plan(imagination(line, cells))

    together, alone = plans([5, 20, 9], [7, 8, 9]), plans([20], [8])
    np.testing.assert_array_equal(together.actions[1], alone.actions[0])
    assert not np.array_equal(alone.actions, plans([20], [9]).actions)


def test_a_policy_that_fails_while_it_proposes_is_named(line):
    one = Planner("tabletop", CARD, replace(CONFIG, proposals=("test_planner:Tired",), iterations=0), [0], 16)
    one.plan(imagination(line, [5]))
    with pytest.raises(UserError, match="'test_planner:Tired', at step 7, raised RuntimeError: tired"):
        one.plan(imagination(line, [5]))
    with pytest.raises(ValueError, match="iterations too where no policy proposes"):
        PlannerConfig(iterations=0)

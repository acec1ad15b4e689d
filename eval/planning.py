"""A planner in the true tabletop, seeing rendered images alone, beside the policies that made the data.

From common start states each acts for H steps. A planner follows what happens: the frames that it sees enter the
imagination that it plans with, one by one, as tokens. What is compared is the undiscounted return.

Legend: P policies, N start states, H steps.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whale.eval.config import PlanningConfig
from whale.eval.results import Figure
from whale.eval.value import DATASET, Truth, start
from whale.metrics.intervals import mean_interval
from whale.planner import Planner, PlannerConfig
from whale.progress import Progress
from whale.sim.policies import SKILLS
from whale.sim.tabletop import LOW_M, Tabletop
from whale.uncertainty import Retracing

if TYPE_CHECKING:
    from whale.models.world_model import WorldModel


@dataclass(frozen=True)
class Played:
    """What a planner did."""

    returns: np.ndarray
    """float64 [N]."""
    success: np.ndarray
    """bool [N] at the last step."""
    costs: np.ndarray
    """float64 [N, plans], what the planner expected of each plan."""


def goal_images(world: Tabletop) -> np.ndarray:
    """The scenes as they are to be: the first disc on the goal, in the closed gripper; uint8 [N, H, W, 3]."""
    done = Tabletop(world.num_scenes, world.camera, world.palette)
    done.set_state(world.state())
    done.discs[:, 0] = done.gripper[:, :2] = done.goal
    done.gripper[:, 2], done.closed[:] = LOW_M / 2, True
    return done.render()


def play(model: "WorldModel", config: PlanningConfig, planner: PlannerConfig, to_image: bool, label: str) -> Played:
    """Let a planner act from every start state; `to_image` shows it a goal, and rewards count for nothing then.

    Raises:
        UserError: the model does not know the tabletop.
    """
    import torch

    from whale.rollout import Imagination

    begin = start(config)
    world, goal = begin.world, goal_images(begin.world) if to_image else None
    imagination = Imagination(
        model, begin.frames, begin.actions, DATASET, world.control_period_sec,
        retracing=Retracing() if planner.uncertainty_weight else None,
    )  # fmt: skip
    plans = Planner(DATASET, model.config.datasets[DATASET], planner, begin.seeds.tolist(), begin.frames.shape[2])
    returns, costs = np.zeros(config.num_starts), []
    progress = Progress(label, config.horizon, "steps")
    for step in range(config.horizon):
        if step % config.replan_every == 0:
            plan = plans.plan(imagination, goal, done=config.replan_every)
            costs.append(plan.cost)
        actions = plan.actions[:, step % config.replan_every]
        returns += world.step(actions)[0]
        imagination.predict(actions)
        seen_BS = torch.from_numpy(model.encode(world.render()))
        imagination.accept(seen_BS.to(imagination.logits_BSV.device))
        progress.advance()
    progress.close()
    return Played(returns, world.success(), np.stack(costs, 1))


def figures(truth: Truth, played: dict[str, Played], seed: int) -> list[Figure]:
    """Returns and success of each planner, by suffix, and of the policies; intervals resample the start states."""
    num = len(truth.start_seeds)

    def figure(name: str, values_N: np.ndarray, unit: str) -> Figure:
        return Figure(name, float(values_N.mean()), *mean_interval(values_N, seed), unit, num)

    behaviour_N, expert = truth.returns.mean(0), list(SKILLS).index("expert")
    found = []
    for suffix, one in played.items():
        found += [
            figure("planner_gain_over_behaviour" + suffix, one.returns - behaviour_N, "return"),
            figure("planner_return" + suffix, one.returns, "return"),
            figure("planner_success" + suffix, one.success.astype(np.float64), "share"),
        ]
    return [
        *found,
        figure("behaviour_return", behaviour_N, "return"),
        figure("behaviour_success", truth.success.mean(0), "share"),
        figure("expert_return", truth.returns[expert], "return"),
    ]

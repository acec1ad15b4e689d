"""Planning by the cross-entropy method: imagine many action sequences, draw again around the best, do the best one.

The method is Rubinstein's (1999). From iCEM (Pinneri et al., 2020) come noise that is coloured over time, elites kept
from one round to the next and, shifted by the steps that were done, from one plan to the next, and that the best
sequence found is the plan. Ours: all candidates of all episodes in one batched rollout that shares what was seen before
(`Imagination.fork`), draws held for a few steps, a gripper that is open or closed, the cost of uncertainty, and
policies that propose: each acts on imagined frames, and what it did is a candidate. Noise alone seldom finds a grasp,
and what it finds instead lies far from the data, where a model pays what the world does not.

Legend: B episodes, N candidates, P policies, E elites, H steps, A actuated action dimensions, S tokens a frame.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from whale.actions import ACTION_DIM, ACTION_NAMES, ActionStatus
from whale.clips.clip import ActionType
from whale.config import configclass
from whale.errors import UserError
from whale.models.dataset_card import DatasetCard
from whale.models.world_model import WorldModel
from whale.policy import GuardedPolicy, load_policy
from whale.rollout import Imagination

GRIPPER = 6
RAREST = 0.05
"""Least probability of an open and of a closed gripper: both go on being tried."""
NARROWEST = 0.1
"""Least standard deviation of a draw, in halves of the action's range."""
FLAT = 0.5e-6
"""Least half of an action's range: of narrower ones `ActionScale` says that they do not vary."""


@configclass
class PlannerConfig:
    """How far and how widely a plan is looked for.

    A plan costs horizon x (candidates x iterations + proposals) imagined frames, and pixels of those of proposals.
    """

    horizon: int = 12
    """H: imagined steps. A reward that lies beyond it is not seen."""
    candidates: int = 64
    """N: action sequences of a round."""
    iterations: int = 3
    """Rounds: each draws around the elites of the one before. 0 takes the best proposal as it is."""
    elites: int = 6
    """E: the best sequences, which the next round is drawn around, and which are kept."""
    hold: int = 2
    """Steps for which a draw is held: fewer numbers to find, and longer moves."""
    colour: float = 2.0
    """Exponent of the noise's spectrum 1 / f^colour over the draws: 0 is white, 2 a random walk."""
    spread: float = 0.8
    """Standard deviation of the first round's draws, in halves of the action's range."""
    proposals: tuple[str, ...] = ()
    """Policies that propose sequences, named as `whale.policy.load_policy` takes them; the first round is drawn around
    the best. They see one frame at a time and have no memory of others."""
    uncertainty_weight: float = 0.0
    """Cost of a nat of retracing uncertainty (`Uncertainty.mean`, summed along the rollout)."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.horizon < 1 or self.hold < 1 or self.iterations < (0 if self.proposals else 1):
            raise ValueError("horizon and hold must be at least 1, and iterations too where no policy proposes")
        if not 2 <= self.elites < self.candidates:
            raise ValueError(f"elites {self.elites} must be at least 2, and fewer than candidates {self.candidates}")
        if self.colour < 0 or self.spread <= 0 or self.uncertainty_weight < 0:
            raise ValueError("spread must be positive, colour and uncertainty_weight not negative")


class Plan(NamedTuple):
    """The best sequence found for each of B episodes."""

    actions: np.ndarray
    """Physical units, float32 [B, H, 7]."""
    cost: np.ndarray
    """Minus the imagined return, or distance to the goal, with the cost of uncertainty: float64 [B]."""


class ActionRange:
    """Actuated dimensions in [-1, 1], between their 1 % and 99 % quantiles in the data; the others stand still.

    Raises:
        UserError: the actions are no end-effector deltas, or some of them are unknown.
    """

    def __init__(self, dataset: str, card: DatasetCard):
        if card.action_type != ActionType.EEF_DELTA:
            raise UserError(
                f"{dataset!r} has {card.action_type} actions; the planner draws {ActionType.EEF_DELTA.value} actions "
                "only, for which standing still is 0 and every draw is a motion",
                "plan with a model of a dataset that has end-effector deltas",
            )
        axes = list(zip(ACTION_NAMES, card.action_status, strict=True))
        if unknown := [axis for axis, status in axes if status == ActionStatus.UNKNOWN]:
            raise UserError(
                f"the action dimensions {', '.join(unknown)} of {dataset!r} are unknown: the model does not see them, "
                "so no plan can say what to command",
                "where the robot cannot move in them, convert with `absent: fixed` and train again",
            )
        self.moved = [i for i, (_, status) in enumerate(axes) if status == ActionStatus.ACTUATED]
        low, high = np.array(card.action_low)[self.moved], np.array(card.action_high)[self.moved]
        self.centre_A, self.half_A = (low + high) / 2, np.maximum((high - low) / 2, FLAT)
        self.is_binary_A = np.array([i == GRIPPER for i in self.moved])

    def unit(self, actions: np.ndarray) -> np.ndarray:
        """Physical actions [..., 7] to float64 [..., A], [-1, 1] between the quantiles and beyond them outside."""
        return (actions[..., self.moved] - self.centre_A) / self.half_A

    def physical(self, unit: np.ndarray) -> np.ndarray:
        """[..., A] in [-1, 1] to physical actions, float32 [..., 7]."""
        actions = np.zeros((*unit.shape[:-1], ACTION_DIM), np.float32)
        actions[..., self.moved] = self.centre_A + self.half_A * unit
        return actions


def coloured_noise(rng: np.random.Generator, num: int, steps: int, dims: int, colour: float) -> np.ndarray:
    """Gaussian noise with spectrum 1 / f^colour over the steps and unit variance at each: float64 [num, steps, dims].

    Phases and amplitudes are drawn at every frequency (Timmer and Koenig, 1995); the constant one is as strong as the
    lowest other, so that sequences differ in their means too.
    """
    frequency = np.fft.rfftfreq(steps)
    frequency[0] = 1 / steps
    weight = frequency ** (-colour / 2)
    alone = np.isin(np.arange(len(weight)), [0] if steps % 2 else [0, steps // 2])  # these have no mirror image
    parts = rng.normal(size=(2, num, len(weight), dims))
    spectrum = np.where(alone[:, None], np.sqrt(2) * parts[0], parts[0] + 1j * parts[1]) * weight[:, None]
    variance = (np.where(alone, 2, 4) * weight**2).sum() / steps**2
    return np.fft.irfft(spectrum, n=steps, axis=1) / np.sqrt(variance)


class Planner:
    """Plans for B episodes, one after the other along each; an episode's plans depend on its seed, not on the batch.

    Args:
        dataset: name of the dataset whose actions are planned.
        card: what is known of it (`model.config.datasets[dataset]`).
        config: how to plan.
        seeds: one for each episode.
        image_px: height and width of the frames that proposing policies see.

    Raises:
        UserError: see `ActionRange`, and `load_policy` of what proposes.
    """

    def __init__(
        self, dataset: str, card: DatasetCard, config: PlannerConfig, seeds: Sequence[int], image_px: int = 64
    ):
        self.config, self._range = config, ActionRange(dataset, card)
        self._rngs = [np.random.default_rng([seed, 0x914A]) for seed in seeds]
        own_seeds = [int(rng.integers(2**31)) for rng in self._rngs] if config.proposals else []
        self._policies = [GuardedPolicy(load_policy(spec, own_seeds, image_px), spec) for spec in config.proposals]
        self._mean_BHA = np.zeros((len(seeds), config.horizon, len(self._range.moved)))
        self._kept_BEHA: np.ndarray | None = None

    def plan(self, imagination: Imagination, goal: np.ndarray | None = None, done: int = 1) -> Plan:
        """What to do from the present frames on.

        Args:
            imagination: of B episodes that have seen their last frames and actions, and are running, whatever it
                thinks of that; it stays as it is. With `uncertainty_weight` it must retrace.
            goal: images uint8 [B, H, W, 3] to reach; None maximises the imagined return.
            done: steps of the last plan that were done since; its rest is where the first round is drawn around
                where no policy proposes.

        Raises:
            UserError: the goals do not fit, an uncertainty is needed and `imagination` does not retrace, or a policy
                fails.
        """
        if (found := len(imagination.returns_B)) != len(self._rngs):
            raise UserError(
                f"the planner plans for {len(self._rngs)} episodes, the imagination holds {found}",
                "build a planner with one seed for each episode",
            )
        goal_BSC = None if goal is None else _goal_codes(imagination.model, goal, len(self._rngs))
        mean_BHA, std = _later(self._mean_BHA, done), np.full_like(self._mean_BHA, self.config.spread)
        best_BEHA, cost_BE = np.empty((len(mean_BHA), 0, *mean_BHA.shape[1:])), np.empty((len(mean_BHA), 0))
        if self._policies:
            best_BEHA, cost_BE = self._best(*self._propose(imagination, goal_BSC))
            mean_BHA, std = best_BEHA.mean(1), np.maximum(best_BEHA.std(1), NARROWEST)
        for number in range(self.config.iterations):
            drawn_BNHA = self._draw(mean_BHA, std)
            if number == 0 and self._kept_BEHA is not None:
                kept_BEHA = _later(self._kept_BEHA, done)
                drawn_BNHA[:, : kept_BEHA.shape[1]] = kept_BEHA
            cost_BN = self._imagine(imagination, drawn_BNHA, goal_BSC)
            best_BEHA, cost_BE = self._best(
                np.concatenate([best_BEHA, drawn_BNHA], 1), np.concatenate([cost_BE, cost_BN], 1)
            )
            mean_BHA, std = best_BEHA.mean(1), np.maximum(best_BEHA.std(1), NARROWEST)
        self._mean_BHA, self._kept_BEHA = mean_BHA, best_BEHA
        return Plan(self._range.physical(best_BEHA[:, 0]), cost_BE[:, 0])

    def _best(self, sequences_BNHA: np.ndarray, cost_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The elites among candidates, the best first, and their costs."""
        best_BE = np.argsort(cost_BN, axis=1, kind="stable")[:, : self.config.elites]
        return np.take_along_axis(sequences_BNHA, best_BE[..., None, None], 1), np.take_along_axis(cost_BN, best_BE, 1)

    def _draw(self, mean_BHA: np.ndarray, std_BHA: np.ndarray) -> np.ndarray:
        """Candidates [B, N, H, A] in [-1, 1].

        A gripper is open with the probability that its mean says, and its draws are as coloured as all others: it is
        open where the noise lies below that quantile.
        """
        config, dims = self.config, mean_BHA.shape[-1]
        knots = -(-config.horizon // config.hold)
        noise = [coloured_noise(rng, config.candidates, knots, dims, config.colour) for rng in self._rngs]
        noise_BNHA = np.repeat(np.stack(noise), config.hold, 2)[:, :, : config.horizon]
        open_BHA = np.clip((mean_BHA + 1) / 2, RAREST, 1 - RAREST)
        quantile_BHA = torch.special.ndtri(torch.from_numpy(open_BHA)).numpy()
        binary_BNHA = np.where(noise_BNHA < quantile_BHA[:, None], 1.0, -1.0)
        moved_BNHA = np.clip(mean_BHA[:, None] + std_BHA[:, None] * noise_BNHA, -1, 1)
        return np.where(self._range.is_binary_A, binary_BNHA, moved_BNHA)

    def _imagine(self, imagination: Imagination, drawn_BNHA: np.ndarray, goal_BSC: Tensor | None) -> np.ndarray:
        """Costs float64 [B, N] of candidates."""
        actions_BNHA = self._range.physical(drawn_BNHA)
        return self._roll(imagination, actions_BNHA.shape[1], lambda _, step: actions_BNHA[:, :, step], goal_BSC)

    def _propose(self, imagination: Imagination, goal_BSC: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        """What the policies do on the frames that follow from it: [B, P, H, A], and its costs float64 [B, P]."""
        acted, num = list[np.ndarray](), len(self._policies)

        def act(fork: Imagination, _: int) -> np.ndarray:
            images = fork.frame()  # those of an episode's policies side by side; each is given a copy, contiguous
            acted.append(np.stack([policy.act(images[i::num].copy()) for i, policy in enumerate(self._policies)], 1))
            return acted[-1]

        cost_BP = self._roll(imagination, num, act, goal_BSC)
        return self._range.unit(np.stack(acted, 2)), cost_BP

    def _roll(
        self, imagination: Imagination, num: int, act: Callable[[Imagination, int], np.ndarray],
        goal_BSC: Tensor | None,
    ) -> np.ndarray:  # fmt: skip
        """Costs float64 [B, N] of N futures of every episode; `act(fork, step)` gives actions float32 [B, N, 7]."""
        fork = imagination.fork(num)
        fork.running_B = np.ones(len(fork.returns_B))  # an end foreseen before now has not come
        before_B, cost_B, uncertain = fork.returns_B, np.zeros(len(fork.returns_B)), []
        for step in range(self.config.horizon):
            imagined = fork.step(act(fork, step).reshape(-1, ACTION_DIM))
            if imagined.uncertainty is not None:
                uncertain.append(imagined.uncertainty.mean.cpu().numpy())
        if weight := self.config.uncertainty_weight:
            if not uncertain:
                raise UserError(
                    f"uncertainty_weight is {weight:g}, and the imagination has estimated no uncertainty",
                    "build it with `retracing=Retracing()`, or set uncertainty_weight to 0",
                )
            cost_B += weight * np.sum(uncertain, 0)
        if goal_BSC is None:
            cost_B += before_B - fork.returns_B
        else:
            reached_BSC = fork.model.codes(torch.from_numpy(imagined.tokens).to(goal_BSC.device))
            distance_BNS = (reached_BSC.unflatten(0, (-1, num)) - goal_BSC[:, None]).square().sum(-1)
            cost_B += distance_BNS.mean(-1).flatten().cpu().numpy()
        return cost_B.reshape(-1, num)


def _later(sequences: np.ndarray, steps: int) -> np.ndarray:
    """Sequences [..., H, A] some steps on; their last step is repeated at the end."""
    at = np.minimum(np.arange(sequences.shape[-2]) + steps, sequences.shape[-2] - 1)
    return sequences[..., at, :]


def _goal_codes(model: WorldModel, goal: np.ndarray, batch: int) -> Tensor:
    """Code vectors [B, S, C] of goal images."""
    px = model.config.tokenizer.image_px
    if goal.dtype != np.uint8 or goal.shape != (batch, px, px, 3):
        raise UserError(
            f"goal images are {goal.dtype} {goal.shape}", f"give uint8 images of shape {(batch, px, px, 3)}"
        )
    return model.codes(torch.from_numpy(model.encode(goal)).to(model.dynamics.position_RD.device)).detach()

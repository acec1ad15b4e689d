"""Closed-loop value accuracy: graded image policies on the tabletop, in truth and in imagination.

From common simulator states every policy acts for H steps, once on rendered frames and once on imagined ones. A value
is the undiscounted sum of rewards over these steps, averaged over the start states; what comes after counts nothing.

Legend: P policies, N start states, H steps. Scene p * N + n is policy p at start state n.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.eval.config import PlanningConfig, ValueConfig
from whale.eval.results import Figure
from whale.metrics import value as metrics
from whale.metrics.intervals import bootstrap_interval
from whale.progress import Progress
from whale.sim.policies import SKILLS, TabletopPolicy
from whale.sim.tabletop import Tabletop

if TYPE_CHECKING:
    from whale.rollout import Imagination

DATASET = "tabletop"
FIRST_START_SEED = 1_000_000_000
"""Seeds of start states begin here, where those of collected episodes end: `CollectConfig` goes no further."""
STANDING_STILL = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
RIDGE = 1e-2
"""Penalty of the null baseline for standardised features, relative to the number of episodes."""


@dataclass(frozen=True)
class Truth:
    """What happened in the true world, and what imagination starts from."""

    context_frames: np.ndarray
    """uint8 [N, C, H, W, 3], the same for every policy."""
    context_actions: np.ndarray
    """float32 [N, C-1, 7]."""
    actions: np.ndarray
    """float32 [P, N, H, 7] taken by the policies."""
    returns: np.ndarray
    """float64 [P, N]."""
    success: np.ndarray
    """bool [P, N] at the last step."""
    start_seeds: np.ndarray
    """int [N]."""


class _Team:
    """All policies over all scenes; built anew for each run, its randomness is the same again."""

    def __init__(self, start_seeds: np.ndarray):
        self._policies = [TabletopPolicy(skill, start_seeds) for skill in SKILLS.values()]

    def act(self, images: np.ndarray) -> np.ndarray:
        """Actions float32 [P*N, 7] for images uint8 [P*N, H, W, 3]."""
        shares = np.split(images, len(self._policies))
        return np.concatenate([policy.act(share) for policy, share in zip(self._policies, shares, strict=True)])


class Start(NamedTuple):
    """N scenes after the context, and what was seen on the way."""

    world: Tabletop
    frames: np.ndarray
    """uint8 [N, C, H, W, 3]; the last ones show the scenes as they are."""
    actions: np.ndarray
    """float32 [N, C-1, 7]."""
    seeds: np.ndarray
    """int [N]."""


def start(config: ValueConfig | PlanningConfig) -> Start:
    """The scenes that everything starts from: drawn by the seed, then standing still."""
    seeds = FIRST_START_SEED + config.seed * config.num_starts + np.arange(config.num_starts)
    world = Tabletop(config.num_starts)
    world.reset(seeds)
    still = np.repeat(STANDING_STILL[None], config.num_starts, 0)
    frames = [world.render()]
    for _ in range(config.context_frames - 1):
        world.step(still)
        frames.append(world.render())
    return Start(world, np.stack(frames, 1), np.repeat(still[:, None], config.context_frames - 1, 1), seeds)


def run_truth(config: ValueConfig | PlanningConfig) -> Truth:
    """Run every policy in the simulator."""
    begin = start(config)
    world, team = Tabletop(len(SKILLS) * config.num_starts), _Team(begin.seeds)
    world.set_state({name: np.concatenate([value] * len(SKILLS)) for name, value in begin.world.state().items()})
    returns, actions = np.zeros(world.num_scenes), []
    for _ in range(config.horizon):
        actions.append(team.act(world.render()))
        returns += world.step(actions[-1])[0]
    shape = (len(SKILLS), config.num_starts)
    return Truth(
        context_frames=begin.frames,
        context_actions=begin.actions,
        actions=np.stack(actions, 1).reshape(*shape, config.horizon, -1),
        returns=returns.reshape(shape),
        success=world.success().reshape(shape),
        start_seeds=begin.seeds,
    )


def run_imagined(imagine: Callable[..., "Imagination"], truth: Truth, config: ValueConfig, label: str) -> np.ndarray:
    """Returns float64 [P, N] that a model imagines, the policies acting on its frames.

    An imagined reward counts by the probability that the episode has not terminated before that step: the expectation
    of "zero reward after termination".
    """
    team, num_policies = _Team(truth.start_seeds), len(SKILLS)
    imagination = imagine(
        context_frames=np.concatenate([truth.context_frames] * num_policies),
        context_actions=np.concatenate([truth.context_actions] * num_policies),
        dataset=DATASET,
        control_period_sec=Tabletop(1).control_period_sec,
    )
    progress = Progress(label, config.horizon, "steps")
    for _ in range(config.horizon):
        imagination.step(team.act(imagination.frame()))
        progress.advance()
    progress.close()
    return imagination.returns_B.reshape(num_policies, config.num_starts)


def action_features(actions: np.ndarray) -> np.ndarray:
    """What the null baseline sees: float [..., H, 7] -> [..., 21], per dimension mean, spread, mean change."""
    change = np.abs(np.diff(actions, axis=-2)).mean(-2)
    return np.concatenate([actions.mean(-2), actions.std(-2), change], -1)


def fit_actions_only(reader: ClipReader, horizon: int) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """A ridge regression from the actions of recorded episodes to their returns over `horizon` steps.

    Returns:
        The fit, mapping actions [..., H, 7] to returns [...], and the number of episodes behind it.

    Raises:
        UserError: fewer than 20 of the clips start their episode, have rewards, and last `horizon` steps or terminate.
    """
    features, returns = [], []
    for k in range(len(reader)):
        clip = reader.read(k, with_frames=False)
        steps = int(clip.action_known[:horizon].sum())
        whole = steps == horizon or (steps > 1 and clip.is_terminal.any())  # a terminated episode earns no more
        if clip.info.start == 0 and clip.rewards is not None and whole:
            features.append(action_features(clip.actions[:steps]))
            returns.append(clip.rewards[:steps].sum())
    if len(returns) < 20:
        raise UserError(
            f"{reader.folder}, split {reader.split!r}, has {len(returns)} episodes of {horizon} rewarded steps; the "
            "regression on actions alone needs 20",
            "give the pixel clips of whole tabletop episodes, or lower horizon",
        )
    x, y = np.array(features, np.float64), np.array(returns, np.float64)
    centre, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    z = (x - centre) / scale
    weights = np.linalg.solve(z.T @ z + RIDGE * len(z) * np.eye(z.shape[1]), z.T @ (y - y.mean()))
    return lambda actions: (action_features(actions) - centre) / scale @ weights + y.mean(), len(y)


def figures(true: np.ndarray, imagined: np.ndarray, seed: int, suffix: str = "") -> list[Figure]:
    """The figures of value accuracy from returns [P, N] twice; intervals resample the start states."""
    policies, starts = true.shape

    def figure(name: str, metric: Callable[[np.ndarray, np.ndarray], float], unit: str = "") -> Figure:
        """A metric of the policies' mean values."""

        def of(drawn: np.ndarray) -> float:
            return metric(true[:, drawn].mean(1), imagined[:, drawn].mean(1))

        return Figure(name + suffix, of(np.arange(starts)), *bootstrap_interval(of, starts, seed), unit, policies)

    per_start = [metrics.pearson(true[:, n], imagined[:, n]) for n in range(starts)]
    spread = bootstrap_interval(lambda drawn: float(np.mean([per_start[n] for n in drawn])), starts, seed)
    return [
        figure("value_pearson", metrics.pearson),
        figure("value_spearman", metrics.spearman),
        figure("mmrv", metrics.mmrv, "return"),
        figure("regret_at_1", lambda v, w: metrics.regret_at_k(v, w, 1), "share of range"),
        figure("value_gap", metrics.value_gap, "return"),
        figure("value_gap_normalised", metrics.value_gap_normalised, "share of range"),
        Figure("value_pearson_per_start" + suffix, metrics.pearson_per_start(true, imagined), *spread, "", starts),
    ]

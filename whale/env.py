"""The world model as a Gymnasium environment, for one episode or for many in one batch.

    env = WorldModelEnv(model, EnvConfig(clips="clips/bridge", horizon=40))

Observation: the imagined frame, uint8 [H, W, 3]. Action: float32 [7] in physical units, within
`whale.episodes.action_range`. Reward: the model's expectation. `reset(seed=..., options={"episode": name})` begins as a
recorded episode does; the seed draws which, and what is drawn later. `info`: `episode_id`, `instruction`, `step`,
`tokens` (int64 [S]) of the frame; after a step also `termination_probability`; with retracing `uncertainty` (the parts
of `whale.uncertainty.Uncertainty`), with a calibration `expected_error` (grey levels).

Importing this file loads Gymnasium, as no other does: a subclass needs its base.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from whale.episodes import EnvConfig, ImaginedEpisodes
from whale.errors import UserError
from whale.models.world_model import WorldModel

__all__ = ["EnvConfig", "WorldModelEnv", "WorldModelVectorEnv"]


def _spaces(episodes: ImaginedEpisodes) -> tuple[Box, Box]:
    """Of one episode's observations and actions."""
    size = episodes.model.config.tokenizer.image_px
    return Box(0, 255, (size, size, 3), np.uint8), Box(episodes.low, episodes.high, dtype=np.float32)


def _metadata(episodes: ImaginedEpisodes) -> dict[str, Any]:
    return {**WorldModelEnv.metadata, "render_fps": round(1 / episodes.control_period_sec)}


def _each(value: Any, num: int) -> list[Any]:
    """One value for each row: those that are given, or the one."""
    return list(value) if isinstance(value, list | tuple | range | np.ndarray) else [value] * num


class WorldModelEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """One imagined episode at a time; arguments and errors are those of `whale.episodes.ImaginedEpisodes`."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as in the base class

    def __init__(self, model: WorldModel, config: EnvConfig, render_mode: str | None = None):
        self._episodes = ImaginedEpisodes(model, config, 1)
        self.observation_space, self.action_space = _spaces(self._episodes)
        self.metadata, self.render_mode = _metadata(self._episodes), render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin as the recorded episode `options["episode"]` does, or as one that is drawn."""
        super().reset(seed=seed)
        self._episodes.begin([0], [self.np_random], [(options or {}).get("episode")])
        return self._episodes.frames()[0], self._episodes.info(0)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Imagine what follows; see `whale.episodes.ImaginedEpisodes.step`."""
        if not self._episodes.running[0]:
            raise UserError("the episode ended, or has not begun", "call reset before the next step")
        reward, terminated, truncated = self._episodes.step(np.asarray(action)[None])
        frame, info = self._episodes.frames()[0], self._episodes.info(0)
        return frame, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The present frame, with `render_mode="rgb_array"`."""
        return self._episodes.frames()[0] if self.render_mode else None


class WorldModelVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Episodes side by side in one batched imagination: row i is what `WorldModelEnv` gives for its seed and actions.

    Follows Gymnasium's vector API in its default mode, `AutoresetMode.NEXT_STEP`: a row that ended begins again on the
    next step, which ignores its action.
    """

    def __init__(self, model: WorldModel, config: EnvConfig, num_envs: int, render_mode: str | None = None):
        self._episodes = ImaginedEpisodes(model, config, num_envs)
        self._generators = [seeding.np_random()[0] for _ in range(num_envs)]
        self.num_envs, self.render_mode = num_envs, render_mode
        self.metadata = {**_metadata(self._episodes), "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space, self.single_action_space = _spaces(self._episodes)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes in all rows.

        Args:
            seed: row i is seeded with seed + i, or with seed[i].
            options: `episode` names the recorded episode of all rows, or one of each.
        """
        names = _each((options or {}).get("episode"), self.num_envs)
        if isinstance(seed, int | np.integer):
            seed = range(int(seed), int(seed) + self.num_envs)
        seeds = _each(seed, self.num_envs)
        if not len(seeds) == len(names) == self.num_envs:
            raise UserError(
                f"{len(seeds)} seeds and {len(names)} episodes are given",
                f"give one of each for each of the {self.num_envs} rows",
            )
        for row, one in enumerate(seeds):
            if one is not None:
                self._generators[row] = seeding.np_random(int(one))[0]
        self._episodes.begin(range(self.num_envs), self._generators, names)
        return self._episodes.frames(), self._infos()

    def _infos(self) -> dict[str, Any]:
        """Arrays [num_envs, ...], and under `_<name>` which rows have one, as Gymnasium gives them."""
        infos: dict[str, Any] = {}
        for row in range(self.num_envs):
            infos = self._add_info(infos, self._episodes.info(row), row)
        return infos

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Imagine what follows in every row; see `whale.episodes.ImaginedEpisodes.step`."""
        over = np.flatnonzero(~self._episodes.running).tolist()
        reward, terminated, truncated = self._episodes.step(actions)
        if over:
            self._episodes.begin(over, [self._generators[row] for row in over], [None] * len(over))
        return self._episodes.frames(), reward.astype(np.float64), terminated, truncated, self._infos()

    def render(self) -> tuple[np.ndarray, ...] | None:  # type: ignore[override]
        """The present frames, with `render_mode="rgb_array"`."""
        return tuple(self._episodes.frames()) if self.render_mode else None

"""A small deterministic tabletop: a gantry arm with a gripper, two discs and a goal, seen from above.

The arm is moved by canonical end-effector deltas (metres; the three rotations are fixed). Discs are pushed by a lowered
open gripper and carried by a closed one. The task is to bring the first disc onto the goal; the reward is dense and
lies in [0, 1.1], and an episode ends early only when that disc leaves the table. No GL, no downloads, NumPy only.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from whale.actions import ActionStatus
from whale.sim.base import Camera

TABLE_HALF_M = 0.25
REACH_HALF_M = 0.23
EDGE_M = 0.222
"""A disc whose centre passes this line has left the table."""
MAX_STEP_M = 0.05
LIFT_MAX_M = 0.08
LOW_M = 0.04
"""Below this height the gripper touches discs."""
DISC_RADIUS_M = 0.036
GRIP_RADIUS_M = 0.026
PUSH_RADIUS_M = 0.052
GOAL_RADIUS_M = 0.055
SUCCESS_M = 0.04
REWARD_SCALE_M = 0.12

ACTION_STATUS = tuple(
    ActionStatus.FIXED if dim in (3, 4, 5) else ActionStatus.ACTUATED for dim in range(7)
)


@dataclass(frozen=True)
class Palette:
    """RGB colours of the scene, 0 to 255."""

    table: tuple[int, int, int] = (201, 178, 146)
    border: tuple[int, int, int] = (96, 74, 56)
    goal: tuple[int, int, int] = (58, 150, 82)
    disc: tuple[int, int, int] = (206, 44, 52)
    other: tuple[int, int, int] = (48, 88, 196)
    arm: tuple[int, int, int] = (74, 78, 86)
    gripper_open: tuple[int, int, int] = (244, 244, 240)
    gripper_closed: tuple[int, int, int] = (246, 170, 20)


SHIFTED_PALETTE = Palette(
    table=(92, 112, 126), border=(36, 44, 54), goal=(226, 206, 84), disc=(214, 98, 178), other=(92, 206, 196),
    arm=(26, 28, 34), gripper_open=(238, 238, 246), gripper_closed=(240, 122, 50),
)
SHIFTED_CAMERA = Camera(rotation_rad=np.pi / 9, width_m=0.6)
"""The new camera of the adaptation task: turned by 20 degrees, with a wider view, and with `SHIFTED_PALETTE`."""


@dataclass
class Tabletop:
    """N tabletop scenes (see `whale.sim.base.World`).

    State arrays, all with leading N: `gripper` float64 [N, 3] (x, y, height), `closed` and `held` bool [N] and int [N]
    (index of the held disc or -1), `discs` float64 [N, 2, 2], `goal` float64 [N, 2], `terminated` bool [N].
    """

    num_scenes: int
    camera: Camera = field(default_factory=Camera)
    palette: Palette = field(default_factory=Palette)
    control_period_sec: float = 0.2

    def reset(self, seeds: np.ndarray) -> None:
        """Draw start states: objects apart from one another, the gripper open and raised."""
        n = self.num_scenes
        self.gripper, self.goal = np.zeros((n, 3)), np.zeros((n, 2))
        self.discs = np.zeros((n, 2, 2))
        self.closed, self.held = np.zeros(n, bool), np.full(n, -1)
        self.terminated = np.zeros(n, bool)
        for i, seed in enumerate(np.asarray(seeds).tolist()):
            rng = np.random.default_rng(seed)
            points = rng.uniform(-0.17, 0.17, (3, 2))
            while min(np.linalg.norm(points[a] - points[b]) for a, b in ((0, 1), (0, 2), (1, 2))) < 0.12:
                points = rng.uniform(-0.17, 0.17, (3, 2))
            self.discs[i], self.goal[i] = points[:2], points[2]
            self.gripper[i] = [*rng.uniform(-0.18, 0.18, 2), LIFT_MAX_M]

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Move, grasp, push, score; a terminated scene stays as it is and earns zero reward."""
        actions = np.asarray(actions, np.float64)
        if actions.shape != (self.num_scenes, 7):
            raise ValueError(f"actions have shape {actions.shape}, this world takes ({self.num_scenes}, 7)")
        alive = ~self.terminated
        before = self.gripper.copy()
        moved = before + np.clip(actions[:, :3], -MAX_STEP_M, MAX_STEP_M)
        moved[:, :2] = np.clip(moved[:, :2], -REACH_HALF_M, REACH_HALF_M)
        moved[:, 2] = np.clip(moved[:, 2], 0.0, LIFT_MAX_M)
        self.gripper[alive] = moved[alive]
        self.closed[alive] = actions[alive, 6] < 0.5
        self._grasp_and_carry(alive, self.gripper[:, :2] - before[:, :2])
        self._push(alive)
        reward = np.where(alive, self._reward(), 0.0)
        self.terminated |= alive & (np.abs(self.discs[:, 0]) > EDGE_M).any(-1)
        return reward.astype(np.float32), self.terminated.copy()

    def _grasp_and_carry(self, alive: np.ndarray, travel: np.ndarray) -> None:
        for k in range(2):
            carried = alive & self.closed & (self.held == k)
            self.discs[carried, k] += travel[carried]
        self.held[alive & ~self.closed] = -1
        distance = np.linalg.norm(self.discs - self.gripper[:, None, :2], axis=-1)
        nearest = distance.argmin(-1)
        can_grasp = alive & self.closed & (self.held < 0) & (self.gripper[:, 2] < LOW_M)
        self.held = np.where(can_grasp & (distance.min(-1) < GRIP_RADIUS_M), nearest, self.held)

    def _push(self, alive: np.ndarray) -> None:
        """A lowered gripper holding nothing shoves discs out of its way; a disc between its fingers is not shoved."""
        for k in range(2):
            offset = self.discs[:, k] - self.gripper[:, :2]
            distance = np.linalg.norm(offset, axis=-1)
            touched = alive & (self.held < 0) & (self.gripper[:, 2] < LOW_M)
            touched &= (distance < PUSH_RADIUS_M) & (distance >= GRIP_RADIUS_M)
            contact = self.gripper[:, :2] + offset / np.maximum(distance, 1e-9)[:, None] * PUSH_RADIUS_M
            self.discs[touched, k] = contact[touched]

    def _reward(self) -> np.ndarray:
        to_goal = np.linalg.norm(self.discs[:, 0] - self.goal, axis=-1)
        reach = np.linalg.norm(self.discs[:, 0] - self.gripper[:, :2], axis=-1)
        return np.exp(-to_goal / REWARD_SCALE_M) + 0.1 * np.exp(-reach / REWARD_SCALE_M)

    def success(self) -> np.ndarray:
        """Whether the first disc rests on the goal, bool [N]."""
        return ~self.terminated & (np.linalg.norm(self.discs[:, 0] - self.goal, axis=-1) < SUCCESS_M)

    def state(self) -> dict[str, np.ndarray]:
        """A copy of the full state."""
        names = ("gripper", "goal", "discs", "closed", "held", "terminated")
        return {name: getattr(self, name).copy() for name in names}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Return to a state read earlier."""
        for name, value in state.items():
            setattr(self, name, np.array(value))

    def proprio(self) -> np.ndarray:
        """Gripper position (m) and whether it is open, float32 [N, 4]."""
        return np.concatenate([self.gripper, ~self.closed[:, None]], -1).astype(np.float32)

    def render(self) -> np.ndarray:
        """The camera's view with soft edges, uint8 [N, H, W, 3]."""
        x, y = (axis[None] for axis in self.camera.pixel_grid())
        softness = self.camera.width_m / self.camera.size_px
        image = np.empty((self.num_scenes, *x.shape[1:], 3), np.float32)
        image[:] = self.palette.table

        def paint(distance_m: np.ndarray, colour: np.ndarray | tuple[int, int, int]) -> None:
            """Blend `colour` in where the signed distance to the shape is negative, over one pixel's width."""
            cover = np.clip(0.5 - distance_m / softness, 0.0, 1.0)[..., None]
            np.add(image, cover * (np.asarray(colour, np.float32) - image), out=image)

        def at(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            points = points.astype(np.float32)
            return x - points[:, 0, None, None], y - points[:, 1, None, None]

        paint(TABLE_HALF_M - 0.012 - np.maximum(abs(x), abs(y)), self.palette.border)
        dx, dy = at(self.goal)
        paint(abs(np.hypot(dx, dy) - GOAL_RADIUS_M) - 0.009, self.palette.goal)
        for k, colour in ((1, self.palette.other), (0, self.palette.disc)):
            dx, dy = at(self.discs[:, k])
            paint(np.hypot(dx, dy) - DISC_RADIUS_M, colour)
        self._paint_gripper(paint, at(self.gripper[:, :2]))
        return np.round(image).astype(np.uint8)

    def _paint_gripper(self, paint: Callable[..., None], offset: tuple[np.ndarray, np.ndarray]) -> None:
        dx, dy = offset
        size = (1.0 + 2.5 * self.gripper[:, 2]).astype(np.float32)[:, None, None]  # nearer to the camera, larger
        closed = self.closed[:, None, None]
        spread = np.where(closed, 0.034, 0.046).astype(np.float32) * size
        paint(np.maximum(abs(dx) - 0.014, 0.050 * size - dy), self.palette.arm)
        colour = np.where(closed[..., None], self.palette.gripper_closed, self.palette.gripper_open)
        palm = np.maximum(abs(dx) - spread - 0.009, abs(dy - 0.048 * size) - 0.010)
        fingers = np.maximum(abs(abs(dx) - spread) - 0.009, abs(dy - 0.010 * size) - 0.042 * size)
        paint(np.minimum(palm, fingers), colour)

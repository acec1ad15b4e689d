"""Twelve image-only tabletop policies of graded quality.

A policy sees one image and nothing else, so that it can act on real and on imagined frames alike. It finds objects by
colour, then follows a scripted rule whose faults (noise, slowness, a wrong target, a habit of letting go) grade it.
"""

from dataclasses import dataclass

import numpy as np

from whale.sim.base import Camera
from whale.sim.tabletop import LIFT_MAX_M, MAX_STEP_M, Palette, Tabletop


@dataclass(frozen=True)
class Skill:
    """The faults of one policy."""

    speed: float = 1.0
    """Largest move a step, as a fraction of what the arm can do."""
    noise: float = 0.12
    """Standard deviation of the motion noise, as a fraction of the largest move."""
    grasps: bool = True
    """Whether it lifts over the disc and grasps; otherwise it shoves the disc."""
    target: str = "disc"
    """The object it goes for: `disc`, `other`, or `none` (wanders at random)."""
    goal: str = "goal"
    """Where it brings the object: `goal`, `away` from it, or `short` of it."""
    drop: float = 0.0
    """Chance a step of letting go while carrying."""


SKILLS: dict[str, Skill] = {
    "expert": Skill(),
    "steady": Skill(speed=0.5),
    "slow": Skill(speed=0.25),
    "noisy": Skill(noise=0.35),
    "shaky": Skill(speed=0.8, noise=0.7),
    "clumsy": Skill(speed=0.8, drop=0.45),
    "short": Skill(goal="short"),
    "pusher": Skill(speed=0.4, grasps=False),
    "confused": Skill(target="other"),
    "random": Skill(target="none", noise=0.8),
    "idle": Skill(speed=0.08, target="none", noise=0.1),
    "saboteur": Skill(speed=0.8, goal="away"),
}


def _centroid(
    image: np.ndarray, colour: tuple[int, int, int], x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where a colour is: centroid in metres float [N, 2], and its area in pixels float [N]."""
    channels = np.abs(image.astype(np.float32) - np.asarray(colour, np.float32))
    # Twice as fast as a maximum over the short last axis.
    difference = np.maximum(np.maximum(channels[..., 0], channels[..., 1]), channels[..., 2])
    weight = np.clip(1.0 - difference / 70.0, 0.0, 1.0)
    area = weight.sum((1, 2))
    total = np.maximum(area, 1e-6)
    return np.stack([(weight * x).sum((1, 2)) / total, (weight * y).sum((1, 2)) / total], -1), area


class TabletopPolicy:
    """One graded policy, vectorised over scenes: `act(images uint8 [N, H, W, 3]) -> float32 [N, 7]`.

    Its randomness comes from `seeds` (one per scene) and the number of calls since construction, so a run is repeated
    exactly by building it again.
    """

    def __init__(self, skill: Skill, seeds: np.ndarray, camera: Camera | None = None, palette: Palette | None = None):
        self.skill = skill
        self.camera, self.palette = camera or Camera(), palette or Palette()
        self._x, self._y = self.camera.pixel_grid()
        self._rngs = [np.random.default_rng([int(seed), 77]) for seed in seeds]
        self._heading = np.stack([rng.uniform(-0.2, 0.2, 2) for rng in self._rngs])
        self._gripper_offset = self._calibrate()

    def _calibrate(self) -> np.ndarray:
        """Offset from the fork's centroid to the gripper's centre, measured on one rendered frame."""
        world = Tabletop(1, self.camera, self.palette)
        world.reset(np.array([0]))
        world.gripper[:] = [[0.0, 0.0, LIFT_MAX_M]]
        return _centroid(world.render(), self.palette.gripper_open, self._x, self._y)[0][0]

    def _see(self, images: np.ndarray) -> dict[str, np.ndarray]:
        open_at, open_area = _centroid(images, self.palette.gripper_open, self._x, self._y)
        closed_at, closed_area = _centroid(images, self.palette.gripper_closed, self._x, self._y)
        closed = closed_area > open_area
        disc, disc_area = _centroid(images, self.palette.disc, self._x, self._y)
        other, other_area = _centroid(images, self.palette.other, self._x, self._y)
        gripper = np.where(closed[:, None], closed_at, open_at) - self._gripper_offset
        # A disc that cannot be seen is taken to be under the gripper.
        disc = np.where(disc_area[:, None] > 4, disc, gripper)
        other = np.where(other_area[:, None] > 4, other, gripper)
        goal = _centroid(images, self.palette.goal, self._x, self._y)[0]
        return {"gripper": gripper, "closed": closed, "disc": disc, "other": other, "goal": goal}

    def act(self, images: np.ndarray) -> np.ndarray:
        """Canonical actions for a batch of images."""
        seen, skill = self._see(images), self.skill
        limit = MAX_STEP_M * skill.speed
        noise = np.stack([rng.normal(size=3) for rng in self._rngs]) * MAX_STEP_M * skill.noise
        chance = np.array([rng.random() for rng in self._rngs])
        for i in np.flatnonzero(chance > 0.88):
            self._heading[i] = self._rngs[i].uniform(-0.2, 0.2, 2)
        if skill.target == "none":
            move, lift, closed = self._wander(seen, chance)
        elif skill.grasps:
            move, lift, closed = self._carry(seen, chance)
        else:
            move, lift, closed = self._shove(seen)
        action = np.zeros((len(images), 7), np.float32)
        length = np.linalg.norm(move, axis=-1, keepdims=True)
        action[:, :2] = move * np.minimum(1.0, limit / np.maximum(length, 1e-9)) + noise[:, :2]
        action[:, 2] = lift + 0.3 * noise[:, 2]
        action[:, 6] = np.where(closed, 0.0, 1.0)
        action[:, :3] = np.clip(action[:, :3], -MAX_STEP_M, MAX_STEP_M)
        return action

    def _destination(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        if self.skill.goal == "away":
            return np.where(seen["goal"] > 0, -0.24, 0.24)
        if self.skill.goal == "short":
            return seen["goal"] + np.array([0.09, 0.0]) * np.where(seen["goal"][:, :1] > 0, -1.0, 1.0)
        return seen["goal"]

    def _carry(self, seen: dict[str, np.ndarray], chance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        thing, gripper, destination = seen[self.skill.target], seen["gripper"], self._destination(seen)
        over = np.linalg.norm(thing - gripper, axis=-1) < 0.022
        placed = np.linalg.norm(thing - destination, axis=-1) < 0.02
        carrying = seen["closed"] & (np.linalg.norm(thing - gripper, axis=-1) < 0.04)
        move = np.where(carrying[:, None], destination - thing, thing - gripper)
        move = np.where((placed & ~carrying)[:, None], self._heading - gripper, move)  # done: retreat and look around
        closed = np.where(carrying, ~placed & (chance >= self.skill.drop), over & ~placed)
        lift = np.where(over & ~placed & ~carrying, -MAX_STEP_M, np.where(carrying & ~placed, 0.0, MAX_STEP_M))
        return move, lift, closed

    def _shove(self, seen: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        thing, gripper = seen[self.skill.target], seen["gripper"]
        to_goal = seen["goal"] - thing
        distance = np.linalg.norm(to_goal, axis=-1, keepdims=True)
        behind = thing - to_goal / np.maximum(distance, 1e-9) * 0.065
        reach = np.linalg.norm(thing - gripper, axis=-1)
        ready = np.linalg.norm(behind - gripper, axis=-1) < 0.03
        aligned = ((thing - gripper) * to_goal).sum(-1) > 0.9 * reach * distance[:, 0]
        pushing = (ready | (aligned & (reach < 0.075))) & (distance[:, 0] > 0.02)
        move = np.where(pushing[:, None], to_goal, behind - gripper)
        move = np.where(distance < 0.02, self._heading - gripper, move)
        return move, np.where(pushing, -MAX_STEP_M, MAX_STEP_M), np.zeros(len(gripper), bool)

    def _wander(self, seen: dict[str, np.ndarray], chance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Head for random points; the gripper drifts up and down and closes at times."""
        lift = np.where(chance < 0.5, -MAX_STEP_M, MAX_STEP_M) * 0.5
        return self._heading - seen["gripper"], lift, self._heading[:, 0] > 0.08

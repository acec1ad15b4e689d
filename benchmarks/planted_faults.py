"""Faults planted in generated datasets, one each, and datasets without any: what the audit is measured on."""

import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from planted_scene import FORMS, GRIPPERS, Dataset, Scene, World, in_memory, make, steps_of, write
from scipy.spatial.transform import Rotation as Turn

from whale.data_prep.audit import examine
from whale.data_prep.audit_finding import Finding
from whale.data_prep.oxe.spec import Frame, Gripper, Motion, Part, Rotation
from whale.data_prep.source import open_source

Plant = Callable[[Dataset], None]
CLEAN = World()


@dataclass(frozen=True)
class Fault:
    """One thing made wrong."""

    kind: str
    """What the audit must call it, as a warning at least."""
    name: str
    plant: Plant
    where: str = ""
    """What the finding must name."""
    world: World = CLEAN
    on_files: Callable[[Path], None] | None = None
    """Damage to the written files."""
    in_memory: bool = False
    """RLDS cannot hold it."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def look_at(fault: Fault) -> list[Finding]:
    """The audit's findings on a dataset with this fault; written as RLDS and read again unless RLDS cannot hold it."""
    dataset = make(fault.world)
    fault.plant(dataset)
    with contextlib.redirect_stderr(io.StringIO()):
        if fault.in_memory:
            return examine(in_memory(dataset), dataset.spec, f"memory/{dataset.version}", None)[1]
        with tempfile.TemporaryDirectory() as folder:
            path = write(dataset, Path(folder))
            if fault.on_files:
                fault.on_files(path)
            return examine(open_source(str(path)), dataset.spec, str(path), None)[1]


def is_found(fault: Fault, findings: list[Finding]) -> bool:
    """Whether a hard finding or a warning names the kind and the place."""
    return any(one.kind == fault.kind and one.severity != "info" and fault.where in one.where for one in findings)


def alarms(findings: list[Finding]) -> list[Finding]:
    """What a clean dataset must have none of."""
    return [one for one in findings if one.severity != "info"]


def clean() -> list[World]:
    """Rates, rotation forms, motions, frames and gripper rules, each with another seed."""
    worlds = [World(motion=motion, form=form) for motion in Motion for form in FORMS]
    worlds += [World(rule=rule, motion=Motion.REACHED if k % 2 else Motion.DELTA) for k, rule in enumerate(GRIPPERS)]
    worlds += [World(frame=Frame.TOOL, form=form) for form in FORMS]
    worlds += [World(period_sec=period, noise=noise) for period in (1 / 30, 0.05, 0.2, 1 / 3) for noise in (0.05, 0.3)]
    worlds += [World(gripper_state=False), World(episodes=40), World(steps=90, episodes=5), World()]
    return [replace(world, seed=100 + k) for k, world in enumerate(worlds)]


def _spec(**changes: object) -> Plant:
    def plant(data: Dataset) -> None:
        data.spec = replace(data.spec, **changes)

    return plant


def _action(**changes: object) -> Plant:
    def plant(data: Dataset) -> None:
        data.spec = replace(data.spec, action=replace(data.spec.action, **changes))

    return plant


def _pose(**changes: object) -> Plant:
    def plant(data: Dataset) -> None:
        data.spec = replace(data.spec, pose=replace(data.spec.pose, **changes))

    return plant


def _each(change: Callable[[Scene], None], which: slice = slice(None)) -> Plant:
    def plant(data: Dataset) -> None:
        for scene in data.scenes[which]:
            change(scene)

    return plant


def _scaled(columns: slice, factor: float) -> Plant:
    def change(scene: Scene) -> None:
        scene.action[:, columns] *= factor

    return _each(change)


def _mixed(matrix: np.ndarray, columns: slice = slice(0, 3)) -> Plant:
    def change(scene: Scene) -> None:
        scene.action[:, columns] = scene.action[:, columns] @ np.asarray(matrix, np.float32).T

    return _each(change)


def _late(lag: int, columns: slice = slice(0, 6)) -> Plant:
    def change(scene: Scene) -> None:
        scene.action[:, columns] = np.roll(scene.action[:, columns], lag, 0)

    return _each(change)


def _gripper(rule: Callable[[np.ndarray], np.ndarray]) -> Plant:
    def change(scene: Scene) -> None:
        scene.action[:, -1] = rule(scene.action[:, -1])

    return _each(change)


def _frames(camera: str, change: Callable[[np.ndarray], np.ndarray], which: slice = slice(None)) -> Plant:
    def apply(scene: Scene) -> None:
        scene.frames[camera] = np.ascontiguousarray(change(scene.frames[camera]))

    return _each(apply, which)


def _both(*plants: Plant) -> Plant:
    def plant(data: Dataset) -> None:
        for one in plants:
            one(data)

    return plant


def _state(columns: slice | int, change: Callable[[np.ndarray], np.ndarray], which: slice = slice(None)) -> Plant:
    def apply(scene: Scene) -> None:
        scene.state[:, columns] = change(scene.state[:, columns])

    return _each(apply, which)


def _step(key: str, change: Callable[[np.ndarray], np.ndarray], which: slice = slice(None)) -> Plant:
    def apply(scene: Scene) -> None:
        scene.steps[key] = change(scene.steps[key])

    return _each(apply, which)


def _beside(**metadata: object) -> Plant:
    return _each(lambda scene: scene.metadata.update(metadata))


def _frozen(frames: np.ndarray, first: float = 0.0) -> np.ndarray:
    start = int(first * len(frames))
    return np.concatenate([frames[:start], np.repeat(frames[start : start + 1], len(frames) - start, 0)])


def _swapped(frames: np.ndarray) -> np.ndarray:
    return frames[..., ::-1]


def _black(frames: np.ndarray) -> np.ndarray:
    return frames * 0


def _moved(state: np.ndarray) -> np.ndarray:
    return state + np.where(np.arange(len(state)) >= 20, [[0.25], [0.2], [0.1]], 0).T


def _exchange(scene: Scene) -> None:
    front, side = scene.frames["front"].copy(), scene.frames["side"].copy()
    scene.frames["front"][20:], scene.frames["side"][20:] = side[20:], front[20:]


def _copy(source: int, target: int, noise: float = 0) -> Plant:
    def plant(data: Dataset) -> None:
        one, split = data.scenes[source], data.scenes[target].split
        random = np.random.default_rng(7)
        frames = {key: np.clip(value + random.normal(0, noise, value.shape), 0, 255).astype(np.uint8)
                  for key, value in one.frames.items()} if noise else one.frames
        data.scenes[target] = replace(one, split=split, frames=frames)

    return plant


def _bad_jpeg(scene: Scene) -> None:
    scene.images = dict(steps_of(scene)["observation"])
    scene.images["side"][5] = b"\xff\xd8" + b"\0" * 90


def _uneven(change: Callable[[list[bytes]], list[bytes]]) -> Plant:
    def apply(scene: Scene) -> None:
        scene.images = {"front": change(steps_of(scene)["observation"]["front"])}

    return _each(apply)


def _glitch(column: int, value: float) -> Plant:
    def plant(data: Dataset) -> None:
        for scene in data.scenes[:2]:
            scene.action[11, column] = value

    return plant


def _set(index: tuple[int, int], value: float, what: str) -> Callable[[Scene], None]:
    return lambda scene: getattr(scene, what).__setitem__(index, value)


def _flip(path: Path) -> None:
    file = path / "planted-train.tfrecord-00000-of-00001"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def _cut(path: Path) -> None:
    file = path / "planted-val.tfrecord-00000-of-00001"
    file.write_bytes(file.read_bytes()[:-1000])


def _none(data: Dataset) -> None:
    pass


def _turned(degrees: float, axis: str = "z") -> np.ndarray:
    return Turn.from_euler(axis, degrees, degrees=True).as_matrix()


XYZW, WXYZ = Rotation.QUAT_XYZW, Rotation.QUAT_WXYZ
MOVE, TURN, ALL = slice(0, 3), slice(3, 6), slice(0, 6)

FAULTS = [
    Fault("channels_swapped", "front is BGR", _frames("front", _swapped), "front"),
    Fault("channels_swapped", "side is BGR", _frames("side", _swapped), "side", World(seed=1)),
    Fault("channels_swapped", "both are BGR", _both(_frames("front", _swapped), _frames("side", _swapped)), "front"),
    Fault("channels_swapped", "front in three episodes", _frames("front", _swapped, slice(2, 5)), "front"),
    Fault("channels_swapped", "the spec swaps what needs none", _spec(bgr=("side",)), "side"),
    Fault("black_camera", "side everywhere", _frames("side", _black), "side"),
    Fault("black_camera", "front in three episodes", _frames("front", _black, slice(4, 7)), "front"),
    Fault("black_camera", "front with sensor noise", _frames("front", lambda f: f // 64), "front"),
    Fault("missing_camera", "the spec names a third", _spec(cameras={
        "front": "external", "side": "external", "wrist": "wrist"}), "wrist"),
    Fault("missing_camera", "side repeats front", _each(lambda s: s.frames.update(side=s.frames["front"])), "side"),
    Fault("missing_camera", "no images", _each(lambda s: s.frames.update(side=s.frames["side"][:0]), slice(3, 5)),
          "side", in_memory=True),
    Fault("still_frames", "front is frozen", _frames("front", _frozen), "front"),
    Fault("still_frames", "side freezes in two episodes", _frames("side", lambda f: _frozen(f, 0.3), slice(2, 4)),
          "side"),
    Fault("still_frames", "front at half the rate", _frames("front", lambda f: f[np.arange(len(f)) // 2 * 2]), "front"),
    Fault("still_frames", "front freezes half way", _frames("front", lambda f: _frozen(f, 0.5)), "front"),
    Fault("jumps", "the arm is elsewhere in one episode", _state(MOVE, _moved, slice(3, 4)), "position"),
    Fault("jumps", "a glitch of the state in two", _each(_set((9, 1), 0.9, "state"), slice(5, 7)), "position"),
    Fault("jumps", "frames of another scene", lambda data: data.scenes[4].frames["front"].__setitem__(
        slice(15, 20), 255 - data.scenes[7].frames["front"][15:20]), "front"),
    Fault("jumps", "cameras change places", _each(_exchange, slice(6, 7)), "front", World(seed=5)),
    Fault("action_scale", "millimetres", _scaled(MOVE, 1000), "translation"),
    Fault("action_scale", "ten times", _scaled(MOVE, 10), "translation"),
    Fault("action_scale", "a tenth", _scaled(MOVE, 0.1), "translation", World(form=Rotation.ROTVEC)),
    Fault("action_scale", "twice", _scaled(MOVE, 2), "translation"),
    Fault("action_scale", "one axis three times", _scaled(slice(1, 2), 3), "axes y"),
    Fault("action_scale", "degrees", _scaled(TURN, 57.29578), "rotation"),
    Fault("action_scale", "turns of half the size", _scaled(TURN, 0.5), "rotation", World(period_sec=0.2)),
    Fault("action_scale", "states in millimetres", _state(MOVE, lambda x: x * 1000), "translation"),
    Fault("action_scale", "reached from states in millimetres", _state(MOVE, lambda x: x * 1000), "translation",
          World(motion=Motion.REACHED)),
    Fault("action_scale", "velocities read as differences", _action(motion=Motion.DELTA), "translation",
          World(motion=Motion.VELOCITY, period_sec=0.05)),
    Fault("action_scale", "differences read as velocities", _action(motion=Motion.VELOCITY), "translation"),
    Fault("action_sign", "z", _mixed(np.diag([1, 1, -1])), "translation"),
    Fault("action_sign", "x", _mixed(np.diag([-1, 1, 1])), "translation", World(seed=2, period_sec=0.2)),
    Fault("action_sign", "all", _mixed(-np.eye(3)), "translation"),
    Fault("action_sign", "x and y", _mixed(np.diag([-1, -1, 1])), "translation"),
    Fault("action_sign", "yaw", _mixed(np.diag([1, 1, -1]), TURN), "rotation"),
    Fault("action_sign", "velocity along y", _mixed(np.diag([1, -1, 1])), "translation", World(motion=Motion.VELOCITY)),
    Fault("action_frame", "x and y swapped", _mixed(np.eye(3)[[1, 0, 2]]), "translation"),
    Fault("action_frame", "axes go round", _mixed(np.eye(3)[[1, 2, 0]]), "translation", World(seed=3)),
    Fault("action_frame", "turned by 90 degrees", _mixed(_turned(90)), "translation"),
    Fault("action_frame", "turned by 45 degrees", _mixed(_turned(45)), "translation"),
    Fault("action_frame", "turned by 30 degrees", _mixed(_turned(30, "y")), "translation", World(seed=4)),
    Fault("action_frame", "tool taken for base", _action(frame=Frame.BASE), "translation", World(frame=Frame.TOOL)),
    Fault("action_frame", "base taken for tool", _action(frame=Frame.TOOL), "translation"),
    Fault("action_frame", "tool taken for base, rotation", _action(frame=Frame.UNKNOWN), "rotation",
          World(frame=Frame.TOOL, form=Rotation.ROTVEC)),
    Fault("action_frame", "rotation axes swapped", _mixed(np.eye(3)[[2, 1, 0]], TURN), "rotation"),
    Fault("action_lag", "one step late", _late(1), "translation"),
    Fault("action_lag", "two steps late", _late(2), "translation", World(form=XYZW)),
    Fault("action_lag", "one step early", _late(-1), "translation", World(noise=0.3)),
    Fault("action_lag", "three steps early", _late(-3), "translation"),
    Fault("action_lag", "rotation two steps late", _late(2, TURN), "rotation"),
    Fault("gripper_inverted", "0 is open", _action(gripper_rule=Gripper.CLOSED), "gripper"),
    Fault("gripper_inverted", "-1 is open", _action(gripper_rule=Gripper.SIGNED_OPEN), "gripper",
          World(rule=Gripper.SIGNED_CLOSED)),
    Fault("gripper_inverted", "without a state to compare", _action(gripper_rule=Gripper.OPEN), "gripper",
          World(rule=Gripper.CLOSED, gripper_state=False)),
    Fault("gripper_inverted", "reached motion", _gripper(lambda g: 1 - g), "gripper", World(motion=Motion.REACHED)),
    Fault("gripper_range", "0 to 1 under a signed rule", _action(gripper_rule=Gripper.SIGNED_OPEN)),
    Fault("gripper_range", "-1 to 1 under a rule of 0 to 1", _gripper(lambda g: 2 * g - 1)),
    Fault("gripper_range", "0 to 255", _gripper(lambda g: 255 * g)),
    Fault("gripper_range", "a width in millimetres", _gripper(lambda g: 1000 * g), world=World(rule=Gripper.WIDTH)),
    Fault("gripper_range", "a width never reached", _action(gripper_range=0.5), world=World(rule=Gripper.WIDTH)),
    Fault("gripper_range", "absolute under a relative rule", _action(gripper_rule=Gripper.RELATIVE_CLOSED)),
    Fault("rotation_form", "Euler states read as rotation vectors", _pose(rotation_form=Rotation.ROTVEC), "rotation"),
    Fault("rotation_form", "rotation vectors read as Euler", _pose(rotation_form=Rotation.EULER), "rotation",
          World(form=Rotation.ROTVEC)),
    Fault("rotation_form", "quaternion of the state w first", _pose(rotation_form=XYZW), "rotation", World(form=WXYZ)),
    Fault("rotation_form", "quaternion of the action w last", _action(rotation_form=WXYZ), "rotation",
          World(form=XYZW)),
    Fault("rotation_form", "targets in Euler angles read as rotation vectors", _action(rotation_form=Rotation.ROTVEC),
          "rotation", World(motion=Motion.TARGET)),
    Fault("wrong_rate", "5 Hz stated, 10 Hz recorded", _spec(control_period_sec=0.2), "time"),
    Fault("wrong_rate", "time stamps in ms of half the rate", _step("timestamp", lambda t: t * 2000), "time"),
    Fault("wrong_rate", "the video says 20 Hz", _beside(video_fps=20.0, stated_fps=10.0), "video_fps"),
    Fault("row_frame_mismatch", "a frame more", _uneven(lambda images: [*images, images[-1]]), "front", in_memory=True),
    Fault("row_frame_mismatch", "three frames fewer", _uneven(lambda images: images[3:]), "front", in_memory=True),
    Fault("row_frame_mismatch", "files say a frame more", _each(lambda s: s.metadata.update(
        rows=len(s.action), video_frames=len(s.action) + 1)), "video"),
    Fault("not_finite", "NaN in an action", _each(_set((7, 2), np.nan, "action"), slice(2, 3)), "action"),
    Fault("not_finite", "infinity in a state", _each(_set((3, 0), np.inf, "state"), slice(8, 9)), "state"),
    Fault("not_finite", "NaN rewards", _step("reward", lambda r: r * np.float32(np.nan), slice(0, 2)), "reward"),
    Fault("missing_labels", "no instruction", _step("language_instruction", lambda t: [b""] * len(t)),
          "instruction"),
    Fault("missing_labels", "half have an instruction", _step(
        "language_instruction", lambda t: [b" "] * len(t), slice(0, 6)), "instruction"),
    Fault("missing_labels", "no success label", _each(lambda s: s.metadata.pop("success")), "success"),
    Fault("missing_labels", "is_last never set", _step("is_last", np.zeros_like), "is_last"),
    Fault("missing_labels", "rewards are 0", _step("reward", np.zeros_like), "reward"),
    Fault("duplicates", "train and val share one", _copy(3, -1), "="),
    Fault("duplicates", "one is there twice", _copy(1, 6), "="),
    Fault("duplicates", "encoded again, with noise", _copy(2, -2, 4), "~"),
    Fault("constant_dimension", "yaw", _scaled(slice(5, 6), 0), "action[5]"),
    Fault("constant_dimension", "x", _scaled(slice(0, 1), 0), "dx", World(form=Rotation.ROTVEC)),
    Fault("constant_dimension", "gripper", _gripper(np.ones_like), "gripper"),
    Fault("outliers", "a metre along x", _glitch(0, 1.0), "dx"),
    Fault("outliers", "a radian about z", _glitch(5, 1.0), "rz"),
    Fault("unreadable", "a flipped bit", _none, "train", on_files=_flip),
    Fault("unreadable", "a file cut off", _none, "val", on_files=_cut),
    Fault("unreadable", "a JPEG of zeros", _each(_bad_jpeg, slice(4, 5)), "side"),
    Fault("wrong_version", "0.1.0", lambda data: setattr(data, "version", "0.1.0"), "0.1.0"),
    Fault("features_missing", "no such feature", _action(position=Part(key="action/xyz", size=3))),
    Fault("features_missing", "too few columns", _pose(rotation=Part(key="observation/state", first=5, size=3))),
    Fault("features_missing", "no such metadata", _spec(source_keys=("recording",))),
]
"""Named by what is planted; most are written as RLDS and read again."""

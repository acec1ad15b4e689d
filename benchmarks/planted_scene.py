"""A small kinematic arm over a wooden table, seen by two cameras: known motion, in the terms of any dataset."""

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rlds_files
from PIL import Image
from scipy.spatial.transform import Rotation as Turn

from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Gripper, Motion, Part, PoseSpec, Rotation
from whale.data_prep.source import Episode, InputShard
from whale.errors import UserError

PX = 48
FORMS = {
    Rotation.EULER: lambda turn: turn.as_euler("xyz"), Rotation.EULER_ZYX: lambda turn: turn.as_euler("xyz")[:, ::-1],
    Rotation.ROTVEC: lambda turn: turn.as_rotvec(),
    Rotation.QUAT_XYZW: lambda turn: turn.as_quat(), Rotation.QUAT_WXYZ: lambda turn: np.roll(turn.as_quat(), 1, -1),
}
GRIPPERS = {
    Gripper.OPEN: lambda g: g, Gripper.CLOSED: lambda g: 1 - g, Gripper.SIGNED_OPEN: lambda g: 2 * g - 1,
    Gripper.SIGNED_CLOSED: lambda g: 1 - 2 * g, Gripper.WIDTH: lambda g: 0.08 * g,
    Gripper.RELATIVE_CLOSED: lambda g: -np.sign(np.diff(g, prepend=1.0)),
}


@dataclass(frozen=True)
class World:
    """How the dataset is recorded; every choice is one that real datasets make."""

    seed: int = 0
    episodes: int = 10
    steps: int = 40
    period_sec: float = 0.1
    motion: Motion = Motion.DELTA
    frame: Frame = Frame.BASE
    form: Rotation = Rotation.EULER
    rule: Gripper = Gripper.OPEN
    noise: float = 0.15
    """Of the measured motion against the commanded one."""
    gripper_state: bool = True

    @property
    def action_form(self) -> Rotation:
        """An angular velocity is a rotation vector, whatever says the pose."""
        return Rotation.ROTVEC if self.motion is Motion.VELOCITY else self.form


@dataclass
class Scene:
    """One episode, before it is encoded: what faults are planted in."""

    frames: dict[str, np.ndarray]
    action: np.ndarray
    state: np.ndarray
    steps: dict[str, Any]
    metadata: dict[str, Any]
    split: str = "train"
    images: dict[str, list[bytes]] = field(default_factory=dict)
    """Encoded frames; made from `frames` where a fault does not put them here."""


@dataclass
class Dataset:
    """Episodes and how the spec says they are to be read."""

    spec: DatasetSpec
    scenes: list[Scene]
    version: str = "1.0.0"


def _smooth(random: np.random.Generator, steps: int, width: int) -> np.ndarray:
    noise = random.normal(size=(steps + 8, width))
    return np.stack([np.convolve(noise[:, k], np.ones(6) / 6, "same")[4 : 4 + steps] for k in range(width)], 1)


def _table(random: np.random.Generator) -> np.ndarray:
    """Wood: warm, grained, unevenly lit."""
    y, x = np.mgrid[:PX, :PX] / PX
    grain = np.sin(40 * y + 6 * np.sin(5 * x + random.uniform(0, 6))) * 10 + random.normal(0, 4, (PX, PX))
    light = 0.75 + 0.35 * (x * random.uniform(0.3, 1) + y * random.uniform(0.3, 1)) / 2
    wood = np.array([175, 128, 84]) + random.normal(0, 8, 3)
    return np.clip((wood + grain[..., None]) * light[..., None], 0, 255)


def _render(random: np.random.Generator, table: np.ndarray, places: np.ndarray, hand: np.ndarray, things: np.ndarray,
            ) -> np.ndarray:
    """uint8 [T, PX, PX, 3]: a grey hand at `places` (0 to 1) that opens, over coloured things, with sensor noise."""
    frames = np.repeat(table[None], len(places), 0)
    y, x = np.mgrid[:PX, :PX] / PX
    for place, colour in things:
        frames[:, (abs(x - place[0]) < 0.09) & (abs(y - place[1]) < 0.07)] = colour
    for frame, (u, v), width in zip(frames, places, 0.05 + 0.05 * hand, strict=True):
        frame[(abs(abs(x - u) - width) < 0.03) & (abs(y - v) < 0.12)] = (92, 90, 88)
    return np.clip(frames + random.normal(0, 2.5, frames.shape), 0, 255).astype(np.uint8)


def _scene(world: World, random: np.random.Generator, index: int) -> Scene:
    steps = world.steps + int(random.integers(0, 6))
    shift = _smooth(random, steps, 3) * 0.25 * world.period_sec
    turn = _smooth(random, steps, 3) * 0.9 * world.period_sec
    scatter = 1 + world.noise * random.normal(size=(steps, 1))
    position = np.array([0.4, 0.0, 0.25]) + random.normal(0, 0.06, 3) + np.cumsum(shift * scatter, 0)
    position += random.normal(0, 1e-4, position.shape)  # encoders
    start = Turn.from_euler("xyz", [np.pi * 0.8, 0.3, random.uniform(-1, 1)])
    oriented = [start]
    for one in turn[:-1]:
        oriented.append(Turn.from_rotvec(one * (1 + world.noise * random.normal())) * oriented[-1])
    rotation = Turn.concatenate(oriented)
    position = np.concatenate([position[:1] - shift[:1] * scatter[:1], position])[:steps]
    grip = np.ones(steps)
    grip[steps // 3 + int(random.integers(0, 4)) : steps - 6] = 0
    action, state = _numbers(world, position, rotation, shift, turn, grip)
    tables = [_table(random), _table(random)]
    things = [(random.uniform(0.15, 0.85, 2), random.uniform(low, high))
              for low, high in (((120, 60, 20), (230, 140, 90)), ((150, 20, 20), (240, 70, 60)),
                                ((20, 60, 120), (70, 130, 220)))]
    places = (position[:, :2] - [0.4, 0.0]) / 0.6 + 0.5
    other = np.stack([places[:, 1], (position[:, 2] - 0.25) / 0.6 + 0.5], 1)
    # A hand that leaves the picture would show nothing of its motion.
    frames = {camera: _render(random, table, np.clip(place, 0.05, 0.95), grip, things)
              for camera, table, place in zip(("front", "side"), tables, (places, other), strict=True)}
    flags = {name: np.zeros(steps, bool) for name in ("is_first", "is_last", "is_terminal")}
    flags["is_first"][0] = flags["is_last"][-1] = flags["is_terminal"][-1] = True
    reward = np.zeros(steps, np.float32)
    reward[-1] = 1
    return Scene(
        frames=frames, action=action.astype(np.float32), state=state.astype(np.float32),
        steps={**flags, "reward": reward, "language_instruction": [b"put the cup on the plate"] * steps,
               "timestamp": (np.arange(steps) * world.period_sec).astype(np.float32)},
        metadata={"file_path": f"recording_{index}".encode(), "success": True},
    )


def _numbers(world: World, position: np.ndarray, rotation: Turn, shift: np.ndarray, turn: np.ndarray, grip: np.ndarray,
             ) -> tuple[np.ndarray, np.ndarray]:
    """The action columns and the state columns: x, y, z, rotation, gripper."""
    if world.motion in (Motion.TARGET, Motion.PATH):
        target = position + shift, Turn.from_rotvec(turn) * rotation
    else:
        scale = 1 / world.period_sec if world.motion is Motion.VELOCITY else 1
        target = shift * scale, Turn.from_rotvec(turn)
        if world.motion is Motion.VELOCITY:
            target = target[0], Turn.from_rotvec(turn * scale)
        if world.frame is Frame.TOOL:
            back = rotation.inv()
            target = back.apply(target[0]), Turn.from_rotvec(back.apply(target[1].as_rotvec()))
    columns = [target[0], FORMS[world.action_form](target[1]), GRIPPERS[world.rule](grip)[:, None]]
    state = [position, FORMS[world.form](rotation), np.roll(grip, 2)[:, None]]
    state[2][:2] = grip[0]
    return np.concatenate(columns, 1), np.concatenate(state if world.gripper_state else state[:2], 1)


def make(world: World) -> Dataset:
    """A dataset without any fault."""
    random = np.random.default_rng(world.seed)
    wide, action_wide = (4 if form in (Rotation.QUAT_XYZW, Rotation.QUAT_WXYZ) else 3
                         for form in (world.form, world.action_form))
    spec = DatasetSpec(
        name="planted", cameras={"front": "external", "side": "external"}, control_period_sec=world.period_sec,
        action=ActionSpec(
            motion=world.motion, frame=world.frame, gripper=Part(key="action", first=3 + action_wide, size=1),
            gripper_rule=world.rule, gripper_range=0.08 if world.rule is Gripper.WIDTH else 1.0,
            **({} if world.motion is Motion.REACHED else {
                "position": Part(key="action", size=3), "rotation": Part(key="action", first=3, size=action_wide),
                "rotation_form": world.action_form}),
        ),
        pose=PoseSpec(position=Part(key="observation/state", size=3), rotation_form=world.form,
                      rotation=Part(key="observation/state", first=3, size=wide)),
        proprio=(Part(key="observation/state"),), versions=("1.0.0",), has_rewards=True, success="success",
        source_keys=("file_path",), episode_keys=("file_path",), licence="Apache-2.0",
        sources=("Generated.",), embodiment="simulated arm",
    )
    scenes = [_scene(world, random, i) for i in range(world.episodes)]
    for scene in scenes[-2:]:
        scene.split = "val"
    return Dataset(spec, scenes)


def _encode(frames: np.ndarray) -> list[bytes]:
    found = []
    for frame in frames:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=92)
        found.append(buffer.getvalue())
    return found


def steps_of(scene: Scene) -> dict[str, Any]:
    """Its steps, as a source gives them."""
    images = {camera: scene.images.get(camera) or _encode(frames) for camera, frames in scene.frames.items()}
    return {"observation": {**images, "state": scene.state}, "action": scene.action, **scene.steps}


@dataclass(frozen=True)
class MemorySource:
    """A dataset that was never written: for what RLDS cannot hold, such as more frames than rows."""

    episodes: tuple[tuple[str, Episode], ...]
    dataset: str = "planted"

    @property
    def shards(self) -> tuple[InputShard, ...]:
        """One a split."""
        counts = {split: sum(one == split for one, _ in self.episodes) for split in ("train", "val")}
        return tuple(InputShard(k, f"memory-{split}", split, 0, count, 0)
                     for k, (split, count) in enumerate(counts.items()) if count)

    def read(self, shard: InputShard, cameras: Sequence[str]) -> Iterator[Episode]:
        """The episodes of a split."""
        for record, (_, one) in enumerate(pair for pair in self.episodes if pair[0] == shard.split):
            for camera in cameras:
                if camera not in one.steps["observation"]:
                    raise UserError(f"there is no camera {camera!r}", "choose another")
            yield dataclasses.replace(one, record=record)


def in_memory(dataset: Dataset) -> MemorySource:
    """The dataset as a source, without files."""
    return MemorySource(tuple((scene.split, Episode(0, steps_of(scene), scene.metadata)) for scene in dataset.scenes))


def write(dataset: Dataset, folder: Path) -> Path:
    """The dataset as RLDS, a TFRecord file a split; returns the version folder."""
    splits = {split: [scene for scene in dataset.scenes if scene.split == split] for split in ("train", "val")}
    shards = [[*map(_features, scenes)] for scenes in splits.values()]
    out = rlds_files.write(folder / dataset.version, shards, "planted")
    info = json.loads((out / "dataset_info.json").read_text())
    info["splits"] = [{"name": split, "shardLengths": [str(len(scenes))]} for split, scenes in splits.items()]
    (out / "dataset_info.json").write_text(json.dumps(info))
    for k, split in enumerate(splits):
        (out / f"planted-train.tfrecord-0000{k}-of-00002").rename(out / f"planted-{split}.tfrecord-00000-of-00001")
    return out


def _features(scene: Scene) -> dict[str, Any]:
    """By their full keys; texts are lists of bytes, numbers arrays."""
    steps = steps_of(scene)
    features = {f"observation/{key}": value for key, value in steps.pop("observation").items()} | steps
    beside = {key: [value] if isinstance(value, bytes) else np.asarray(value) for key, value in scene.metadata.items()}
    return ({f"steps/{key}": value for key, value in features.items()}
            | {f"episode_metadata/{key}": value for key, value in beside.items()})

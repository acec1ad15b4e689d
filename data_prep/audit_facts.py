"""What the audit keeps of each episode: small arrays and numbers, so that its memory does not grow with the frames."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from whale.data_prep.audit_motion import Reading, readings
from whale.data_prep.duplicates import ROW, row_of
from whale.data_prep.episode import text_of
from whale.data_prep.images import BadImageError, Images, content_digest, decode_frames
from whale.data_prep.oxe.spec import DatasetSpec, Part
from whale.data_prep.oxe.transforms import canonical_actions, columns, feature_at, poses, proprio_of
from whale.data_prep.resample import Numbers
from whale.data_prep.source import Episode

LOOK_PX, THUMB_PX = 64, 128
MAX_FRAMES = 400
"""Frames of an episode that are looked at for change; a longer one is judged by its beginning."""
EMPTY = np.zeros((0, 7))


def _empty() -> np.ndarray:
    return EMPTY


@dataclass(frozen=True)
class CameraFacts:
    """One camera of one episode."""

    count: int
    """Images stored."""
    problem: str = ""
    """Why they cannot be decoded; what follows is then empty."""
    peak: int = 0
    """The brightest value of any pixel and channel, 0 to 255."""
    warmth: float = 0.0
    """Sum of (red - blue) over sum of |red - blue|, -1 to 1."""
    colours: np.ndarray = field(default_factory=_empty)
    """Shares of pixels in bins of red, green and blue, float64 [4, 4, 4]."""
    change: np.ndarray = field(default_factory=lambda: EMPTY[:, 0])
    """Mean absolute difference of each frame to the next at 64 px, 0 to 255, float64 [n - 1]."""
    digest: bytes = b""
    """Hash of what is stored."""
    thumbs: tuple[bytes, ...] = ()
    """First, middle and last frame as JPEG, where the page shows them."""


@dataclass(frozen=True)
class EpisodeFacts:
    """One episode. Arrays are empty where the spec names nothing to fill them, or it cannot be read."""

    name: str
    """As TFDS numbers it: `train[7]`."""
    split: str
    length: int
    cameras: dict[str, CameraFacts]
    missing: tuple[str, ...]
    """What the spec names and the episode does not have."""
    not_finite: tuple[str, ...]
    """Features with NaN or infinity."""
    labels: dict[str, bool]
    """Whether `is_last`, `is_terminal`, `instruction`, `success` and `reward` say anything."""
    metadata: dict[str, Any]
    period_sec: float | None
    """Median difference of time stamps, in their own unit."""
    row: np.ndarray
    """What duplicates are found by, `duplicates.ROW`."""
    actions: np.ndarray = field(default_factory=_empty)
    """Canonical, where known, float64 [T - 1, 7]."""
    recorded: dict[str, np.ndarray] = field(default_factory=dict)
    """Columns of the action, float64 [T] each: those that the spec reads; where it reads no motion from it,
    all."""
    gripper: np.ndarray = field(default_factory=_empty)
    """As recorded, float64 [T, 1]."""
    position: np.ndarray = field(default_factory=_empty)
    """Of the end effector, m, float64 [T, 3]."""
    proprio: np.ndarray = field(default_factory=_empty)
    """Float64 [T, P]."""
    state: np.ndarray = field(default_factory=_empty)
    """Proprioception but for what the pose is read from, float64 [T, P]."""
    readings: dict[str, Reading] = field(default_factory=dict)
    """Commanded and measured motion, as the spec reads the data and as others might."""

    def lean(self) -> "EpisodeFacts":
        """Without what grows with its length."""
        cameras = {key: dataclasses.replace(one, change=EMPTY[:, 0]) for key, one in self.cameras.items()}
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.default is dataclasses.MISSING
                and f.default_factory is dataclasses.MISSING}
        return EpisodeFacts(**kept | {"cameras": cameras})


def _jpeg(frame: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _camera(images: Images, bgr: bool, show: bool) -> CameraFacts:
    count = len(images)
    if count == 0:
        return CameraFacts(0, "no image is stored")
    try:
        frames = decode_frames(images, range(min(count, MAX_FRAMES)), LOOK_PX, bgr)
        shown = decode_frames(images, [0, count // 2, count - 1], THUMB_PX, bgr) if show else ()
    except BadImageError as error:
        return CameraFacts(count, str(error))
    few = frames[:: max(1, len(frames) // 8)].astype(np.int16)
    warm = few[..., 0] - few[..., 2]
    bins = np.histogramdd(few.reshape(-1, 3), bins=4, range=[(0, 256)] * 3)[0]
    change = np.array([np.abs(b.astype(np.int16) - a).mean() for a, b in pairwise(frames)])
    return CameraFacts(count, "", int(frames.max()), float(warm.sum() / max(np.abs(warm).sum(), 1)), bins / bins.sum(),
                       change, content_digest(images), tuple(_jpeg(frame) for frame in shown))


def flat(steps: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Features by their paths."""
    found: dict[str, Any] = {}
    for key, value in steps.items():
        found |= flat(value, f"{prefix}{key}/") if isinstance(value, dict) else {prefix + key: value}
    return found


def _numeric(features: dict[str, Any]) -> dict[str, np.ndarray]:
    """Features that are numbers, float64 [T, columns]."""
    return {key: np.asarray(value, np.float64).reshape(len(value), -1) for key, value in features.items()
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiub"}


def _labels(episode: Episode, spec: DatasetSpec) -> dict[str, bool]:
    steps = episode.steps
    said = {key: key in steps and bool(np.any(steps[key])) for key in ("is_last", "is_terminal", "reward")}
    try:
        text = text_of(feature_at(steps, spec.instruction)[0]) if spec.instruction else ""
    except KeyError:
        text = ""
    said["instruction"] = bool(text.strip())
    return said | {"success": spec.success in flat(episode.metadata) or spec.success in flat(steps)}


def _period(numbers: dict[str, np.ndarray]) -> float | None:
    """Median difference of the time stamps, where there are any that grow."""
    for key, values in numbers.items():
        if "time" in key.rpartition("/")[2] and values.shape[1] == 1:
            steps = np.diff(values[:, 0])
            if len(steps) and (steps > 0).all() and not (steps == 1).all():  # a count of steps is no time
                return float(np.median(steps))
    return None


def _state(numbers: dict[str, np.ndarray], spec: DatasetSpec) -> np.ndarray:
    """The columns of proprioception that the pose is not read from."""
    def places(part: Part) -> set[tuple[str, int]]:
        return {(part.key, k) for k in range(numbers[part.key].shape[1])[part.first :][: part.size]}

    posed = [part for part in (spec.pose.position, spec.pose.rotation, spec.pose.joints) if part is not None]
    own = {one for part in spec.proprio for one in places(part)} - {one for part in posed for one in places(part)}
    return np.stack([numbers[key][:, k] for key, k in sorted(own)], 1) if own else EMPTY


def _recorded(numbers: dict[str, np.ndarray], spec: DatasetSpec) -> dict[str, np.ndarray]:
    action = spec.action
    parts = [part for part in (action.position, action.rotation, action.joints) if part is not None]
    parts += [action.gripper] if parts and action.gripper else []
    parts = parts or [Part(key=key) for key in numbers if key == "action" or key.startswith("action/")]
    return {f"{part.key}[{part.first + k}]": column for part in parts
            for k, column in enumerate(columns(numbers, part).T)}


def _row(actions: np.ndarray, known: np.ndarray, proprio: np.ndarray, images: Images, bgr: bool) -> np.ndarray:
    return row_of(0, 0, 0, Numbers(actions, known, None, proprio, known, known, known), images, bgr)


def collect(episode: Episode, name: str, split: str, spec: DatasetSpec, cameras: Sequence[str], show: bool,
            ) -> EpisodeFacts:
    """The facts of one episode, with thumbnails where `show`. What cannot be read by the spec is named in `missing`."""
    steps, numbers = episode.steps, _numeric(flat(episode.steps))
    missing: list[str] = []

    def read(call: Callable[[], Any], default: Any = EMPTY) -> Any:
        try:
            return call()
        except (KeyError, ValueError) as error:
            missing.append(f"there is no {error}" if isinstance(error, KeyError) else str(error))
            return default

    images = {camera: feature_at(steps, f"observation/{camera}") for camera in cameras}
    looked = {camera: _camera(images[camera], camera in spec.bgr, show) for camera in cameras}
    actions, known = read(lambda: canonical_actions(steps, spec), (EMPTY, EMPTY))
    posed = spec.pose.position is not None or spec.pose.joints is not None
    position = read(lambda: poses(steps, spec)[0]) if posed else EMPTY
    proprio = read(lambda: proprio_of(steps, spec)) if spec.proprio else EMPTY
    gripper = read(partial(columns, steps, spec.action.gripper)) if spec.action.gripper else EMPTY
    recorded = read(lambda: _recorded(numbers, spec), {})
    for key in (*spec.source_keys, *spec.episode_keys):
        read(partial(feature_at, episode.metadata, key))
    finite = {key: bool(np.isfinite(value).all()) for key, value in numbers.items()}
    seen = next((camera for camera in cameras if not looked[camera].problem and looked[camera].peak), None)
    row = np.zeros((), ROW)
    if seen is not None and not missing and all(finite.values()):
        row = _row(actions, known, proprio, images[seen], seen in spec.bgr)
    facts = EpisodeFacts(
        name=name, split=split, length=len(steps["is_first"]), cameras=looked, missing=tuple(dict.fromkeys(missing)),
        not_finite=tuple(key for key, fine in finite.items() if not fine), labels=_labels(episode, spec),
        metadata=episode.metadata, period_sec=_period(numbers), row=row,
    )
    return facts if missing else dataclasses.replace(
        facts, actions=actions[known].astype(np.float64), recorded=recorded, gripper=gripper, position=position,
        proprio=np.asarray(proprio, np.float64), state=_state(numbers, spec), readings=readings(steps, spec),
    )

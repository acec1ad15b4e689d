"""One RLDS episode as clips: frames decoded and resized, actions made canonical, cut into windows."""

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from whale.clips.clip import Clip, ClipInfo, Source
from whale.data_prep.config import ConvertConfig
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.oxe.transforms import canonical_actions, proprio_of
from whale.data_prep.source import Episode

BLACK_LEVEL = 8
"""A camera is black when no pixel of the episode is brighter."""


class SkipEpisodeError(Exception):
    """An episode that cannot be used; its text is the reason that is counted."""


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def source_of(episode: Episode, spec: DatasetSpec) -> str:
    """The recording that an episode was cut from."""
    return "#".join(_text(episode.metadata[key]) for key in spec.source_keys)


def content_hash(episode: Episode, camera: str) -> str:
    """SHA-256 of an episode's encoded frames and its actions, as stored."""
    digest = hashlib.sha256()
    for image in episode.steps["observation"][camera]:
        digest.update(hashlib.sha256(image).digest())
    digest.update(np.ascontiguousarray(episode.steps["action"]).tobytes())
    return digest.hexdigest()


def _frames(images: Any, size_px: int) -> np.ndarray:
    """Encoded images to uint8 [T, size_px, size_px, 3]; not square ones are stretched, as Octo and OpenVLA do."""
    frames = []
    for encoded in images:
        with Image.open(io.BytesIO(encoded)) as file:
            image = file.convert("RGB")
        if image.size != (size_px, size_px):
            image = image.resize((size_px, size_px), Image.Resampling.LANCZOS)
        frames.append(np.asarray(image))
    return np.stack(frames)


def to_clips(episode: Episode, spec: DatasetSpec, config: ConvertConfig, split: str, file: str) -> Iterator[Clip]:
    """Clips of one episode.

    Raises:
        SkipEpisodeError: the episode is too short, black, or has values that are not finite.
    """
    steps = episode.steps
    length = len(steps["is_first"])
    if length < 2:
        raise SkipEpisodeError("shorter than two steps")
    frames = _frames(steps["observation"][config.camera], config.size_px)
    if frames.max() <= BLACK_LEVEL:
        raise SkipEpisodeError("camera black")
    actions, known = canonical_actions(steps, spec)
    proprio = proprio_of(steps, spec)
    rewards = np.asarray(steps["reward"], np.float32) if spec.has_rewards else None
    for values in (actions, proprio, rewards):
        if values is not None and not np.isfinite(values).all():
            raise SkipEpisodeError("values that are not finite")
    instruction = _text(steps["language_instruction"][0]) if "language_instruction" in steps else ""
    success = None if spec.success is None else bool(episode.metadata[spec.success])
    window = config.clip_frames or length
    for start in range(0, length - 1, window):  # a single frame left over has nothing to predict
        part = slice(start, start + window)
        info = ClipInfo(
            dataset=spec.name, episode="#".join(_text(episode.metadata[key]) for key in spec.episode_keys),
            start=start, split=split, camera=config.camera, view=spec.cameras[config.camera],
            control_period_sec=spec.control_period_sec, action_type=spec.action_type, action_status=spec.action_status,
            instruction=instruction or None, success=success, source=Source(file, episode.record), tokenizer=None,
        )
        yield Clip(
            info=info, frames=frames[part], tokens=None, actions=actions[part], action_known=known[part],
            rewards=None if rewards is None else rewards[part], proprio=None if proprio is None else proprio[part],
            **{name: np.asarray(steps[name], bool)[part] for name in ("is_first", "is_last", "is_terminal")},
        )

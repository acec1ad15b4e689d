"""One episode as clips: frames decoded and resized, actions made canonical, brought to the rate, cut into windows."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from whale.clips.clip import Clip, ClipInfo, Source
from whale.data_prep.config import ConvertConfig
from whale.data_prep.images import BadImageError, decode_frames
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.oxe.transforms import canonical_actions, feature_at, frame_of, proprio_of, success_of
from whale.data_prep.resample import Numbers, resample, stride_of
from whale.data_prep.source import Episode, InputShard

MALFORMED = (TypeError, ValueError, OverflowError)
"""What NumPy and `chr` raise of a feature that holds something else than the spec says."""
BLACK_LEVEL = 8
"""A camera is black when no pixel of the episode is brighter."""


class SkipEpisodeError(Exception):
    """An episode that cannot be used; its text is the reason, what stands before the first colon is counted."""


def record_name(shard: InputShard, record: int) -> str:
    """A record as TFDS numbers it: `train[7]`."""
    return f"{shard.split}[{shard.first + record}]"


def text_of(value: Any) -> str:
    """Text, from bytes or from code points padded with zeros."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray) and value.ndim:
        return "".join(map(chr, value[value > 0].tolist()))
    return str(value)


def _named(episode: Episode, keys: tuple[str, ...], shard: InputShard) -> str:
    if not keys:
        return record_name(shard, episode.record)
    try:
        return "#".join(text_of(feature_at(episode.metadata, key)) for key in keys)
    except KeyError as error:
        raise SkipEpisodeError(f"missing feature {error.args[0]} of the metadata") from None
    except MALFORMED as error:
        raise SkipEpisodeError(f"malformed feature: {' or '.join(keys)} is no text: {error}") from None


def source_of(episode: Episode, spec: DatasetSpec, shard: InputShard) -> str:
    """The recording that an episode was cut from; a SkipEpisodeError when the metadata does not name it."""
    return _named(episode, spec.source_keys, shard)


def _instruction(episode: Episode, spec: DatasetSpec) -> str | None:
    if spec.instruction is None:
        return None
    try:
        return text_of(feature_at(episode.steps, spec.instruction)[spec.drop_first]).strip() or None
    except KeyError:  # convert counts the episodes that have none
        return None


def _numbers(episode: Episode, spec: DatasetSpec, stride: int) -> Numbers:
    steps, kept = episode.steps, slice(spec.drop_first, None)
    flags = {name: np.array(feature_at(steps, name), bool).reshape(-1)[kept]
             for name in ("is_first", "is_last", "is_terminal")}
    if len(flags["is_first"]) < 2:
        raise SkipEpisodeError("shorter than two steps")
    actions, known = canonical_actions(steps, spec, stride)
    proprio = proprio_of(steps, spec)
    rewards = np.asarray(feature_at(steps, "reward"), np.float32).reshape(-1) if spec.has_rewards else None
    if spec.drop_first:
        flags["is_first"][0] = True
    return Numbers(
        actions=actions[kept], action_known=known[kept], rewards=None if rewards is None else rewards[kept],
        proprio=None if proprio is None else proprio[kept], **flags)


def numbers_of(episode: Episode, spec: DatasetSpec, camera: str, stride: int = 1) -> Numbers:
    """Everything but the frames, at the recorded rate, behind `drop_first`; every `stride` steps are going to be one.

    Raises:
        SkipEpisodeError: the episode cannot be used, whatever its frames show.
    """
    try:
        numbers = _numbers(episode, spec, stride)
        failed = not success_of(episode.metadata, episode.steps, spec) and spec.only_successes
        _instruction(episode, spec)  # what is wrong with it is told now, not when clips are written
    except KeyError as error:
        raise SkipEpisodeError(f"missing feature {error.args[0]}") from None
    except MALFORMED as error:
        raise SkipEpisodeError(f"malformed feature: {error}") from None
    images, length = feature_at(episode.steps["observation"], camera), len(numbers.actions) + spec.drop_first
    if len(images) != length:
        raise SkipEpisodeError(f"frames and steps differ: {len(images)} frames, {length} steps")
    for values in (numbers.actions, numbers.proprio, numbers.rewards):
        if values is not None and len(values) != len(numbers.actions):
            raise SkipEpisodeError("malformed feature: not one row a step")
        if values is not None and not np.isfinite(values).all():
            raise SkipEpisodeError("values that are not finite")
    if failed:
        raise SkipEpisodeError("no success")
    return numbers


def to_clips(
    episode: Episode, spec: DatasetSpec, config: ConvertConfig, split: str, shard: InputShard
) -> Iterator[Clip]:
    """Clips of one episode.

    Raises:
        SkipEpisodeError: the episode cannot be used.
    """
    k, frame = stride_of(spec.control_period_sec, config.control_period_sec), frame_of(spec)
    recorded = numbers_of(episode, spec, config.camera, k)
    numbers = resample(recorded, k, frame.value, spec.action_type)
    length = len(numbers.actions)
    if length < config.min_frames:
        raise SkipEpisodeError(f"shorter than {config.min_frames} frames")
    images = feature_at(episode.steps["observation"], config.camera)
    try:
        which = range(spec.drop_first, len(images), k)
        frames = decode_frames(images, which, config.size_px, config.camera in spec.bgr)
    except BadImageError as error:
        raise SkipEpisodeError(f"undecodable: {error}") from None
    if frames.max() <= BLACK_LEVEL:
        raise SkipEpisodeError("camera black")
    arrays: dict[str, Any] = {field.name: getattr(numbers, field.name) for field in dataclasses.fields(numbers)}
    info = ClipInfo(
        dataset=spec.name, episode=_named(episode, spec.episode_keys, shard), start=0, split=split,
        camera=config.camera, view=spec.cameras[config.camera], control_period_sec=k * spec.control_period_sec,
        action_type=spec.action_type, action_status=spec.action_status, instruction=_instruction(episode, spec),
        success=success_of(episode.metadata, episode.steps, spec), source=Source(shard.name, episode.record),
        tokenizer=None, action_frame=frame.value,
    )
    window = config.clip_frames or length
    for start in range(0, length - 1, window):  # a single frame left over has nothing to predict
        part: dict[str, Any] = {
            name: None if array is None else array[start : start + window] for name, array in arrays.items()}
        here = dataclasses.replace(info, start=start)
        yield Clip(info=here, frames=frames[start : start + window], tokens=None, **part)

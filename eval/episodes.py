"""Held-out episodes as arrays, counted as they are left out.

Legend: N windows, one an episode unless more are asked for, T frames (the context and the longest horizon), H x W
pixels.
"""

from dataclasses import dataclass

import numpy as np

from whale.clips.clip import Clip
from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.models.dataset_card import describe_actions


@dataclass(frozen=True)
class Episodes:
    """N windows of episodes; one shorter than T is padded with its last frame and zero actions."""

    names: list[str]
    """Of each window's episode."""
    numbers: np.ndarray
    """int [N]: which episode each window is of, from 0; the windows of one stand together."""
    starts: np.ndarray
    """int [N]: the frame of its episode that a window begins with."""
    dataset: str
    control_period_sec: float
    action_words: str
    """What the actions hold (`whale.models.dataset_card.describe_actions`)."""
    frames: np.ndarray
    """uint8 [N, T, H, W, 3]."""
    actions: np.ndarray
    """float32 [N, T, 7], physical units; `actions[:, t]` is applied after frame t."""
    lengths: np.ndarray
    """int [N]: frames before the padding, each but the last with a known action."""
    left_out: dict[str, int]
    """Clips that were not taken, by reason."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def of_episodes(self) -> list[str]:
        """The name of each episode, in the order of their numbers."""
        return [self.names[i] for i in np.unique(self.numbers, return_index=True)[1]]


def read_episodes(
    reader: ClipReader, num_frames: int, min_frames: int, limit: int | None, seed: int, every: int | None = None
) -> Episodes:
    """Draw up to `limit` episodes of at least `min_frames` frames, in an order given by the seed.

    Only clips that start their episode are taken, and of each the first `num_frames` frames; `every` so many frames on
    another window begins, as long as it is whole. Windows of one episode are not samples of their own: intervals
    resample the episodes.

    Raises:
        UserError: the clips are tokens, or of several frame sizes, control periods or kinds of actions, or none is long
            enough.
    """
    if reader.manifest.kind != "pixels":
        raise UserError(f"{reader.folder} holds {reader.manifest.kind}", "give pixel clips: raw frames are scored")
    left_out = {"starts within an episode": 0, f"shorter than {min_frames} frames": 0, "beyond max_episodes": 0}
    clips: list[Clip] = []
    for k in np.random.default_rng([seed, 1]).permutation(len(reader)):
        if len(clips) == limit:
            left_out["beyond max_episodes"] = len(reader) - len(clips) - sum(left_out.values())
            break
        clip = reader.read(int(k))
        if clip.info.start > 0:
            left_out["starts within an episode"] += 1
        elif _usable_frames(clip) < min_frames:
            left_out[f"shorter than {min_frames} frames"] += 1
        else:
            clips.append(clip)
    if not clips:
        raise UserError(
            f"{reader.folder}, split {reader.split!r}, has no episode of {min_frames} frames to score: {left_out}",
            "lower context_frames or horizons, or convert with longer clips",
        )
    starts = [_starts(_usable_frames(clip), num_frames, every) for clip in clips]
    return _stack(clips, starts, num_frames, left_out)


def _usable_frames(clip: Clip) -> int:
    """Frames up to the first step whose action is not known, which still has its frame."""
    unknown = np.flatnonzero(~clip.action_known)
    return min(clip.num_frames, int(unknown[0]) + 1) if len(unknown) else clip.num_frames


def _starts(usable: int, num_frames: int, every: int | None) -> range:
    """Where windows begin: at 0, and where all of one fits behind it."""
    return range(0, max(1, usable - num_frames + 1), every or usable)


def _kind(clip: Clip) -> tuple[tuple[int, ...], float, str]:
    """What all episodes must have in common: frame size, control period, and what actions hold."""
    assert clip.frames is not None
    words = describe_actions(clip.info.action_type.value, clip.info.action_status)
    return clip.frames.shape[1:], clip.info.control_period_sec, words


def _stack(clips: list[Clip], starts: list[range], num_frames: int, left_out: dict[str, int]) -> Episodes:
    first = clips[0]
    assert first.frames is not None
    same = _kind(first)
    windows = [(number, start) for number, of_clip in enumerate(starts) for start in of_clip]
    frames = np.empty((len(windows), num_frames, *first.frames.shape[1:]), np.uint8)
    actions = np.zeros((len(windows), num_frames, first.actions.shape[1]), np.float32)
    lengths = np.array([min(num_frames, _usable_frames(clips[number]) - start) for number, start in windows])
    for i, ((number, start), length) in enumerate(zip(windows, lengths, strict=True)):
        clip, last = clips[number], start + length - 1
        assert clip.frames is not None
        if _kind(clip) != same:
            raise UserError(
                f"episode {clip.info.episode} is not of the kind of {first.info.episode} (frame size, control period, "
                f"actions): {_kind(clip)}, {same}",
                "convert to one size, and score one control period and one kind of actions at a time",
            )
        frames[i, :length], frames[i, length:] = clip.frames[start : last + 1], clip.frames[last]
        actions[i, : length - 1] = clip.actions[start:last]
        actions[i, length - 1] = clip.actions[last] if clip.action_known[last] else 0.0
    return Episodes(
        names=[clips[number].info.episode for number, _ in windows],
        numbers=np.array([number for number, _ in windows]),
        starts=np.array([start for _, start in windows]),
        dataset=first.info.dataset,
        control_period_sec=first.info.control_period_sec,
        action_words=same[-1],
        frames=frames,
        actions=actions,
        lengths=lengths,
        left_out=left_out,
    )

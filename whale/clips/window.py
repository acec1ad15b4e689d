"""A clip cut or padded to a window of fixed length, as the arrays that training takes."""

import numpy as np

from whale.actions import ActionScale, ActionStatus
from whale.clips.clip import ActionType, Clip


def _fit(array: np.ndarray, start: int, length: int) -> np.ndarray:
    """`array[start : start + length]` along the first axis, padded with zeros to `length`."""
    part = array[start : start + length]
    if len(part) == length:
        return part
    return np.concatenate([part, np.zeros((length - len(part), *part.shape[1:]), part.dtype)])


def window_arrays(clip: Clip, start: int, length: int, scale: ActionScale) -> dict[str, np.ndarray]:
    """Steps start to start + length - 1 of a clip; what lies behind its end is zero and not `valid`.

    `terminated[t]` says whether the frame after `actions[t]` is terminal: it is known only where that frame is in the
    window. A reward is known where an action was applied.
    """
    steps = clip.num_frames
    valid = _fit(np.ones(steps, bool), start, length)
    status = np.array(clip.info.action_status, np.int64)
    known = _fit(clip.action_known, start, length)
    mask = known[:, None] & (status == ActionStatus.ACTUATED)
    actions = scale.scale(_fit(clip.actions, start, length))
    has_next = np.append(valid[1:], False)
    terminal = _fit(clip.is_terminal, start, length)
    rewards = np.zeros(steps, np.float32) if clip.rewards is None else clip.rewards
    arrays = {
        "actions": np.where(mask, actions, np.float32(0.0)),
        "action_mask": mask,
        "action_status": status,
        "action_type": np.array(list(ActionType).index(clip.info.action_type), np.int64),
        "rewards": _fit(rewards, start, length),
        "reward_mask": valid & known & ~_fit(clip.is_last, start, length) & (clip.rewards is not None),
        "terminated": np.append(terminal[1:], False) & has_next,
        "terminated_mask": has_next,
        "valid": valid,
        "control_period_sec": np.float32(clip.info.control_period_sec),
    }
    if clip.frames is not None:
        arrays["frames"] = _fit(clip.frames, start, length)
    else:
        assert clip.tokens is not None
        arrays["tokens"] = _fit(clip.tokens, start, length).astype(np.int64)
    return arrays

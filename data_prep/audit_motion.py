"""Whether actions say what the arm did: commanded against measured motion, as the spec reads them and otherwise."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any, TypeAlias

import numpy as np

from whale.clips.clip import ActionType
from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Motion, Part, Rotation
from whale.data_prep.oxe.transforms import canonical_actions, feature_at, frame_of, poses
from whale.rotations import rotvec_from_matrix

Reading: TypeAlias = tuple[np.ndarray, np.ndarray]
"""Commanded and measured translation (m) and rotation vector (rad) of each step, float64 [T - 1, 6] each."""

AS_SPEC = "as the spec says"
WINDOW = 8
"""Steps that are summed before motion is compared: a controller that is a step late still agrees on the whole."""
MAX_LAG = 4
COMPARABLE = 0.6
"""Correlation from which commanded and measured motion are taken to be the same motion: real controllers of the
datasets give 0.7 to 0.99, unrelated columns below 0.3."""
_ALIKE = ((Rotation.EULER, Rotation.ROTVEC, Rotation.EULER_ZYX), (Rotation.QUAT_XYZW, Rotation.QUAT_WXYZ))


def commands(spec: DatasetSpec, steps: dict[str, Any]) -> DatasetSpec | None:
    """The spec whose canonical action is the command; where the motion is the reached one, read from the six columns of
    `action` that most datasets keep it in. None where there is no motion to compare, or in other axes than the pose.
    """
    posed = spec.pose.position is not None or spec.pose.joints is not None
    if spec.action_type not in (ActionType.EEF_DELTA, ActionType.PLANAR) or not posed:
        return None
    if spec.action.motion is not Motion.REACHED:
        told = spec.action.position is not None or spec.action.rotation is not None
        return spec if told and frame_of(spec) is Frame.BASE else None
    try:
        columns = np.shape(feature_at(steps, "action"))
    except KeyError:
        return None
    if len(columns) != 2 or columns[1] not in (6, 7):
        return None
    position, rotation = Part(key="action", size=3), Part(key="action", first=3, size=3)
    return dataclasses.replace(spec, action=ActionSpec(frame=Frame.BASE, position=position, rotation=rotation))


def _variants(spec: DatasetSpec) -> Iterator[tuple[str, DatasetSpec]]:
    action, pose = spec.action, spec.pose
    yield AS_SPEC, spec
    if action.motion in (Motion.DELTA, Motion.VELOCITY):
        other = Frame.BASE if action.frame is Frame.TOOL else Frame.TOOL
        yield f"action.frame: {other.value}", dataclasses.replace(spec, action=dataclasses.replace(action, frame=other))
    for form in _others(action.rotation_form) if action.rotation is not None else ():
        changed = dataclasses.replace(spec, action=dataclasses.replace(action, rotation_form=form))
        yield f"action.rotation_form: {form.value}", changed
    for form in _others(pose.rotation_form) if pose.rotation is not None and pose.joints is None else ():
        changed = dataclasses.replace(spec, pose=dataclasses.replace(pose, rotation_form=form))
        yield f"pose.rotation_form: {form.value}", changed


def _others(form: Rotation) -> list[Rotation]:
    """Forms that have as many numbers, and are taken for it."""
    return [other for group in _ALIKE if form in group for other in group if other is not form]


def readings(steps: dict[str, Any], spec: DatasetSpec) -> dict[str, Reading]:
    """Commanded and measured motion of an episode under each reading of it; empty where one of the two is missing."""
    base = commands(spec, steps)
    found = {}
    for name, variant in _variants(base) if base else ():
        position, rotation = poses(steps, variant)
        turn = rotvec_from_matrix(rotation[1:] @ np.swapaxes(rotation[:-1], 1, 2))
        actions, known = canonical_actions(steps, variant)
        measured = np.concatenate([np.diff(position, axis=0), turn], 1)
        found[name] = (actions[:-1, :6].astype(np.float64)[known[:-1]], measured[known[:-1]])
    return found


@dataclass(frozen=True)
class Fit:
    """Commanded against measured motion of three axes; numbers of axes that hardly move are NaN."""

    correlation: np.ndarray
    """Of each axis with itself, as read, [3]."""
    agreement: float
    """Mean of them."""
    axes: tuple[int, ...]
    signs: tuple[int, ...]
    """The relabelling that agrees best: measured axis i is `signs[i]` times commanded axis `axes[i]`."""
    relabelled: float
    """Its agreement."""
    explained: np.ndarray
    """Correlation of each measured axis under it, [3]."""
    scale: np.ndarray
    """Least-squares scale, measured by commanded, of each measured axis under that relabelling, [3]."""
    turned_deg: float
    """Angle of the rotation that fits best."""
    gain: float
    """Share of the unexplained variance that this rotation leaves, 1 where it explains nothing more."""
    lag: int
    """Steps by which the measured motion follows the commanded one; 0 unless another fits clearly better."""
    steps: int
    """Steps compared."""


def unexplained(agreement: float) -> float:
    """Share of variance that a correlation leaves; a negative one explains nothing."""
    return 1 - max(agreement, 0.0) ** 2


def _shifted(pairs: Sequence[Reading], lag: int) -> list[Reading]:
    if lag == 0:
        return list(pairs)
    cut = [(a[:-lag], b[lag:]) if lag > 0 else (a[-lag:], b[:lag]) for a, b in pairs]
    return [pair for pair in cut if len(pair[0])]


def _cross(pairs: Sequence[Reading]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Covariance [3, 3] of measured with commanded axes, and the standard deviations of each, pooled."""
    a, b = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    a, b = a - a.mean(0), b - b.mean(0)
    return b.T @ a / len(a), b.std(0), a.std(0)


def _without_glitches(pairs: Sequence[Reading]) -> list[Reading]:
    """Steps far longer than the usual ones, set to no motion: one of them would outweigh all others in a square."""
    lengths = [[np.linalg.norm(one, axis=1) for one in pair] for pair in pairs]
    far = [6 * np.percentile(np.concatenate([pair[i] for pair in lengths]), 95) for i in (0, 1)]
    kept = [(a <= far[0]) & (b <= far[1]) for a, b in lengths]
    return [(a * keep[:, None], b * keep[:, None]) for (a, b), keep in zip(pairs, kept, strict=True)]


def _best_lag(pairs: Sequence[Reading]) -> int:
    """Found before axes are: the sum of singular values does not mind rotated, swapped or flipped axes."""
    left = {}
    for lag in range(-MAX_LAG, MAX_LAG + 1):
        if shifted := _shifted(pairs, lag):
            cross, b, a = _cross(shifted)
            size = np.sqrt((b**2).sum() * (a**2).sum())
            left[lag] = unexplained(np.linalg.svd(cross, compute_uv=False).sum() / max(size, 1e-30))
    best = min(left, key=lambda lag: (left[lag], abs(lag)))
    return best if left[best] < 0.7 * left[0] - 0.02 else 0


def _windows(pairs: Sequence[Reading]) -> list[Reading]:
    def summed(values: np.ndarray) -> np.ndarray:
        total = np.cumsum(np.concatenate([np.zeros((1, 3)), values]), 0)
        width = min(WINDOW, len(values))
        return total[width:] - total[:-width]

    return [(summed(a), summed(b)) for a, b in pairs]


def fit(pairs: Sequence[Reading]) -> Fit | None:
    """Compare three axes of commanded with measured motion over all episodes; None where either stands still."""
    pairs = [pair for pair in pairs if len(pair[0]) > MAX_LAG and all(np.isfinite(one).all() for one in pair)]
    if sum(len(pair[0]) for pair in pairs) < 50:
        return None
    pairs = _without_glitches(pairs)
    lag = _best_lag(pairs)
    cross, b, a = _cross(_windows(_shifted(pairs, lag)))
    moving = (b > 0.1 * b.max()) & (a > 0.1 * a.max())
    if b.max() < 1e-6 or a.max() < 1e-9 or not moving.any():
        return None
    correlation = np.where(moving[:, None] & moving, cross / np.maximum(b[:, None] * a, 1e-30), 0.0)
    live = np.flatnonzero(moving)
    best = max(
        ((axes, signs) for axes in permutations(range(3)) for signs in product((1, -1), repeat=3)
         if all(axes[i] == i and signs[i] == 1 for i in range(3) if i not in live)),
        key=lambda one: sum(one[1][i] * correlation[i, one[0][i]] for i in live),
    )
    chosen = np.array([best[1][i] * correlation[i, best[0][i]] for i in range(3)])
    u, sizes, vt = np.linalg.svd(cross)
    flip = np.sign(np.linalg.det(u @ vt))
    rotation = u @ np.diag([1, 1, flip]) @ vt
    size = np.sqrt((b**2).sum() * (a**2).sum())
    before, after = (unexplained(value / size) for value in (np.trace(cross), sizes[0] + sizes[1] + flip * sizes[2]))
    return Fit(
        correlation=np.where(moving, np.diag(correlation), np.nan), agreement=float(np.diag(correlation)[live].mean()),
        axes=best[0], signs=best[1], relabelled=float(chosen[live].mean()),
        explained=np.where(moving, chosen, np.nan),
        scale=np.where(moving, chosen * b / np.maximum(a[list(best[0])], 1e-30), np.nan),
        turned_deg=float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1)))),
        gain=float((after + 0.02) / (before + 0.02)), lag=lag, steps=sum(len(pair[0]) for pair in pairs),
    )

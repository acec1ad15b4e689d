"""Checks of actions, proprioception and gripper: pure functions from facts to findings."""

from collections.abc import Iterator, Sequence

import numpy as np

from whale.actions import ACTION_NAMES, ActionStatus
from whale.clips.clip import ActionType
from whale.data_prep.audit_facts import EMPTY, EpisodeFacts
from whale.data_prep.audit_finding import Finding, Severity, names
from whale.data_prep.audit_motion import AS_SPEC, COMPARABLE, Fit, fit, unexplained
from whale.data_prep.oxe.spec import DatasetSpec, Gripper, Motion

Facts = Sequence[EpisodeFacts]
PARTS = {"translation": slice(0, 3), "rotation": slice(3, 6)}
SCALE = 1.5
"""Measured motion is between 1/1.5 and 1.5 times the commanded one on arms that follow; wrong units start at 2."""
FASTEST = {"translation": (3.0, "m/s"), "rotation": (10.0, "rad/s")}
"""No arm is faster for a twentieth of the time: a Panda is held to 2 m/s and 2.6 rad/s a joint."""
SPANS = {Gripper.OPEN: (0, 1), Gripper.CLOSED: (0, 1), Gripper.SIGNED_OPEN: (-1, 1), Gripper.SIGNED_CLOSED: (-1, 1),
         Gripper.RELATIVE_CLOSED: (-1, 1)}
"""What a rule expects."""


def fits(facts: Facts, part: slice) -> dict[str, Fit]:
    """How well commanded and measured motion agree under every reading."""
    found = {}
    for name in dict.fromkeys(name for one in facts for name in one.readings):
        pairs = [one.readings[name] for one in facts if name in one.readings]
        if (one_fit := fit([(a[:, part], b[:, part]) for a, b in pairs])) is not None:
            found[name] = one_fit
    return found


def motion(facts: Facts, spec: DatasetSpec) -> Iterator[Finding]:
    """Commanded against measured motion: form, frame or sign (one explains what the others would), scale, lag.

    Where the reached motion is used, what is wrong with the command is worth knowing, and harms nothing.
    """
    reached = spec.action.motion is Motion.REACHED
    hard: Severity = "info" if reached else "hard"
    warning: Severity = "info" if reached else "warning"
    for label, part in PARTS.items():
        found, where = fits(facts, part), f"{'recorded command' if reached else 'action'}, {label}"
        if AS_SPEC not in found:
            continue
        read = found[AS_SPEC]
        other = max(found, key=lambda name: found[name].agreement)
        if max(read.relabelled, found[other].agreement) < COMPARABLE and read.gain > 0.5:
            if not reached:
                yield Finding("warning", "action_unrelated", where, read.relabelled,
                              "correlation with the measured motion under the best axes and signs")
            continue
        wrong = _misread(where, hard, read, other, found[other])
        if wrong is not None:
            yield wrong
        used = found[other] if wrong is not None and f"`{other}`" in wrong.what else read
        yield from _scale(where, warning, used)
        if used.lag:
            yield Finding(warning, "action_lag", where, used.lag, "steps by which the measured motion follows")


def _misread(where: str, severity: Severity, read: Fit, name: str, other: Fit) -> Finding | None:
    left, by_name, by_axes = (unexplained(x) for x in (read.agreement, other.agreement, read.relabelled))
    enough = 0.6 * left - 0.02
    if by_name < min(enough, by_axes - 0.02):
        kind = "rotation_form" if "rotation_form" in name else "action_frame"
        return Finding(severity, kind, where, read.agreement, f"correlation as the spec reads it; with `{name}` it is "
                       f"{other.agreement:.2f}")
    if by_axes < enough and read.relabelled >= COMPARABLE:
        axes = [f"{'xyz'[i]} is {'-' if sign < 0 else ''}{'xyz'[k]}"
                for i, (k, sign) in enumerate(zip(read.axes, read.signs, strict=True)) if (k, sign) != (i, 1)]
        kind = "action_sign" if read.axes == (0, 1, 2) else "action_frame"
        return Finding(severity, kind, where, read.agreement,
                       f"correlation as the spec reads it; where {names(axes)}, it is {read.relabelled:.2f}")
    if read.turned_deg > 15 and read.gain < 0.5:
        return Finding(severity, "action_frame", where, read.turned_deg, "degrees by which measured motion is turned")
    return None


def _scale(where: str, severity: Severity, found: Fit) -> Iterator[Finding]:
    """Of axes whose commands show in the motion at all: one that pushes against a limit has no scale."""
    scale = np.abs(found.scale)
    silent = np.flatnonzero(found.explained < COMPARABLE)
    if len(silent) and found.relabelled >= COMPARABLE:
        axes = "".join("xyz"[i] for i in silent)
        yield Finding("info", "action_unrelated", f"{where}, axes {axes}", float(found.explained[silent].min()),
                      "correlation with the measured motion: the arm stands at a limit, or moves otherwise")
    off = np.flatnonzero(((scale > SCALE) | (scale < 1 / SCALE)) & (found.explained >= COMPARABLE))
    if len(off) and found.relabelled >= COMPARABLE:
        factor = float(np.exp(np.log(np.maximum(scale[off], 1e-12)).mean()))
        axes = "" if len(off) == np.isfinite(scale).sum() else f", axes {''.join('xyz'[i] for i in off)}"
        worst: Severity = "hard" if severity == "warning" and not 1 / 3 < factor < 3 else severity
        yield Finding(worst, "action_scale", where + axes, factor, "measured over commanded motion (least squares)")


def plausible(facts: Facts, spec: DatasetSpec) -> Iterator[Finding]:
    """Speeds that no arm has: units or the rate are wrong. It needs no proprioception."""
    actions = np.concatenate([one.actions for one in facts])
    if spec.action_type not in (ActionType.EEF_DELTA, ActionType.PLANAR) or not len(actions):
        return
    for label, part in PARTS.items():
        speed = np.linalg.norm(actions[:, part], axis=1) / spec.control_period_sec
        (fastest, unit), high, top = FASTEST[label], float(np.percentile(speed, 95)), float(speed.max())
        if high > fastest:
            yield Finding("hard", "action_scale", f"action, {label}", high, f"{unit} at the 95th percentile: too fast")
        elif 0 < top < 1e-3 * fastest:
            yield Finding("warning", "action_scale", f"action, {label}", top, f"{unit} at most: the arm hardly moves")


def gripper_values(facts: Facts, spec: DatasetSpec) -> Iterator[Finding]:
    """Values that the rule does not expect, or that use half of its range."""
    values = np.concatenate([one.gripper[:, 0] for one in facts])
    if spec.action.gripper is None or not len(values):
        return
    rule = spec.action.gripper_rule
    low, high = SPANS.get(rule, (0, spec.action.gripper_range))
    where, span = f"{spec.action.gripper.key}, rule {rule.value}", high - low
    used, seen = float(np.ptp(values) / span), f"(from {values.min():.3g} to {values.max():.3g})"
    outside = float(np.mean((values < low - 0.05 * span) | (values > high + 0.05 * span)))
    between = int(np.sum(np.abs(values - (low + high) / 2) < 0.499 * span))
    if outside > 0.01:
        yield Finding("hard", "gripper_range", where, outside, f"of the values are outside {low:g} to {high:g} {seen}")
    elif 0.01 < used < 0.55:
        yield Finding("warning", "gripper_range", where, used, f"of the rule's range is used {seen}")
    elif 0 < between < 0.2 * len(values) and rule is not Gripper.RELATIVE_CLOSED:
        yield Finding("info", "gripper_between", where, between, f"of {len(values)} values are neither open nor closed")


def gripper_side(facts: Facts) -> Iterator[Finding]:
    """Open taken for closed. Hands begin open, and their state follows; a state may count how far it is closed, so it
    alone is no proof.
    """
    facts = [one for one in facts if len(one.actions) > 5 and np.ptp(one.actions[:, 6]) > 0.5]
    if len(facts) < 3:
        return
    closed = float(np.mean([one.actions[0, 6] < 0.5 for one in facts]))
    follows = _follows(facts)
    if closed >= 0.8 and follows < 0.6:
        yield Finding("hard" if follows < -0.6 else "warning", "gripper_inverted", "gripper", closed,
                      f"of the episodes begin closed; with the gripper's state it correlates by {follows:.2f}")
    elif follows < -0.6:
        yield Finding("info" if closed <= 0.2 else "warning", "gripper_inverted", "gripper", follows,
                      "correlation with its state, which may count how far it is closed")


def _follows(facts: Facts) -> float:
    """Correlation of the gripper with the column of its state that follows it best, within four steps."""
    best = 0.0
    facts = [one for one in facts if one.state.size]
    for lag in range(5) if facts else ():
        state = np.concatenate([one.state[lag : len(one.actions)] for one in facts])
        command = np.concatenate([one.actions[: len(one.actions) - lag, 6] for one in facts])
        state, command = state - state.mean(0), command - command.mean()
        found = command @ state / np.maximum(np.sqrt((state**2).sum(0) * (command**2).sum()), 1e-12)
        best = max([best, *map(float, found)], key=abs)
    return best


def dimensions(facts: Facts, spec: DatasetSpec) -> Iterator[Finding]:
    """What never moves although it is actuated, and values far from all others."""
    actions = np.concatenate([one.actions for one in facts])
    if not len(actions):
        return
    # A small turn about two axes has a part about the third: what is recorded says more than the canonical action.
    told = spec.action.position is not None or spec.action.rotation is not None
    columns = {f"{name}": actions[:, k] for k, name in enumerate(ACTION_NAMES)
               if spec.action_status[k] is ActionStatus.ACTUATED}
    if told:
        columns |= {key: np.concatenate([one.recorded.get(key, EMPTY[:, 0]) for one in facts])
                    for key in facts[0].recorded}
    for name, column in columns.items():
        if np.ptp(column) < 1e-7:
            yield Finding("warning", "constant_dimension", name, float(column[0]), "is its only value")
    low, high = np.percentile(actions, [1, 99], axis=0)
    span = 4 * np.maximum(high - low, 1e-4)
    far = ((actions < low - span) | (actions > high + span)).sum(0)
    for k in np.flatnonzero(far[:6]):
        yield Finding("warning", "outliers", ACTION_NAMES[k], int(far[k]),
                      f"of {len(actions)} values are beyond the 1st to 99th percentile by four times their distance")


def jumps(facts: Facts) -> Iterator[Finding]:
    """The end effector somewhere else in one step."""
    moved = [np.linalg.norm(np.diff(one.position, axis=0), axis=1) for one in facts]
    together = np.concatenate(moved)
    bound = max(0.03, 6 * float(np.percentile(together, 95))) if len(together) else 0.0
    found = [f"{one.name} step {k + 1}" for one, m in zip(facts, moved, strict=True) for k in np.flatnonzero(m > bound)]
    if found:
        yield Finding("warning", "jumps", f"position: {names(found)}", float(together.max()),
                      f"m in one step; 95 % stay under {bound / 6:.3f}")


def repeats_state(facts: Facts) -> Iterator[Finding]:
    """Actions that are the next proprioception: reached, not commanded."""
    same = []
    for one in facts:
        recorded = np.array([*one.recorded.values()]).T
        if len(recorded) > 2 and recorded.shape == one.proprio.shape:
            same.append(np.isclose(recorded[:-1], one.proprio[1:], rtol=0, atol=1e-6).all(1).mean())
    if same and np.mean(same) > 0.95:
        yield Finding("info", "action_is_next_state", "action", float(np.mean(same)),
                      "of the actions equal the next state: they are reached, not commanded")

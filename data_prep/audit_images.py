"""Checks of what cameras show: pure functions from facts to findings."""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from whale.data_prep.audit_facts import CameraFacts, EpisodeFacts
from whale.data_prep.audit_finding import Finding, Severity, names
from whale.data_prep.episode import BLACK_LEVEL
from whale.data_prep.oxe.spec import DatasetSpec

Facts = Sequence[EpisodeFacts]
STILL_LEVEL = 0.02
"""Mean difference of two frames, of 255, under which nothing was recorded: real sensors give 0.05 (a grey wall, H.264)
to 2 (JPEG) for a scene at rest."""
COLD = -0.35
"""Wood, skin, cardboard and lamps are warm: episodes of Bridge and of the Franka folder lie between -0.24 and 1."""


def _lit(facts: Facts, camera: str) -> list[tuple[EpisodeFacts, CameraFacts]]:
    return [(one, one.cameras[camera]) for one in facts
            if camera in one.cameras and one.cameras[camera].peak > BLACK_LEVEL]


def presence(facts: Facts, absent: dict[str, str]) -> Iterator[Finding]:
    """Cameras that the source does not have, that hold nothing, or another camera's frames."""
    for camera, reason in absent.items():
        yield Finding("hard", "missing_camera", camera, None, reason)
    for camera in facts[0].cameras:
        bad = {one.name: one.cameras[camera] for one in facts if one.cameras[camera].problem}
        for kind, found in (("missing_camera", [name for name, look in bad.items() if not look.count]),
                            ("unreadable", [name for name, look in bad.items() if look.count])):
            if found:
                yield Finding("hard", kind, f"{camera}: {names(found)}", len(found), bad[found[0]].problem)
        lit = {one.name for one, _ in _lit(facts, camera)}
        black = [one.name for one in facts if one.name not in lit and one.name not in bad]
        if black:
            severity: Severity = "hard" if len(black) == len(facts) else "warning"
            yield Finding(severity, "black_camera", f"{camera}: {names(black)}", len(black),
                          f"of {len(facts)} episodes are black")
    for a, b in combinations(facts[0].cameras, 2):
        same = [one.name for one, look in _lit(facts, b) if one.cameras[a].digest == look.digest]
        if same:
            yield Finding("hard", "missing_camera", f"{b}: {names(same)}", len(same), f"episodes repeat {a}")


def channels(facts: Facts, spec: DatasetSpec) -> Iterator[Finding]:
    """Red taken for blue. A cold picture is a guess; where another camera shows its colours exchanged, it is none."""
    for camera in facts[0].cameras:
        looks = _lit(facts, camera)
        warmth = np.array([look.warmth for _, look in looks])
        cold = [one for one, look in looks if look.warmth < COLD]
        # In some episodes only: the others must be clearly warm, or it is just a scene with both.
        if cold and (np.median(warmth) < COLD or (len(cold) > 1 and np.percentile(warmth, 75) > -COLD)):
            against = next((other for other in facts[0].cameras if _contradict(cold, camera, other)), None)
            proof = f"; {against} shows its colours with red and blue exchanged" if against else ""
            yield Finding("hard" if against else "warning", "channels_swapped",
                          f"{camera}: {names([one.name for one in cold])}", float(warmth.min()),
                          f"red less blue, -1 to 1: cold in {len(cold)} of {len(looks)} episodes, and the spec "
                          f"{'swaps them back' if camera in spec.bgr else 'takes them as red first'}{proof}")


def _contradict(cold: Facts, camera: str, other: str) -> bool:
    """Whether the colours of a warm camera overlap clearly more with those of the cold one when these are exchanged."""
    gain = []
    for one, look in _lit(cold, other):
        if look.warmth > -COLD:
            here = one.cameras[camera].colours
            gain.append(np.minimum(here.transpose(2, 1, 0), look.colours).sum() - np.minimum(here, look.colours).sum())
    return bool(gain) and float(np.median(gain)) > 0.1


def _moves(one: EpisodeFacts) -> np.ndarray:
    """How far the arm goes in each step, as far as it is known."""
    if len(one.actions) and one.actions[:, :6].any() and not len(one.position):
        return np.linalg.norm(one.actions[:, :6], axis=1)
    return np.linalg.norm(np.diff(one.position if len(one.position) else one.proprio, axis=0), axis=1)


def frames(facts: Facts) -> Iterator[Finding]:
    """Frames that stand still while the arm moves, and frames that show something else all at once."""
    moves = {one.name: _moves(one) for one in facts}
    together = np.concatenate([*moves.values()])
    least = max(0.5 * float(np.percentile(together, 75)), 1e-9) if len(together) else np.inf
    for camera in facts[0].cameras:
        looks = [(one, look) for one, look in _lit(facts, camera) if len(look.change)]
        if not looks:
            continue
        frozen = {}
        for one, look in looks:
            count = min(len(look.change), len(moves[one.name]))
            moving = look.change[:count][moves[one.name][:count] > least]
            if (still := moving < STILL_LEVEL).sum() >= max(3, 0.2 * len(moving)):
                frozen[one.name] = float(still.mean())
        if frozen:
            yield Finding("hard" if len(frozen) > 0.5 * len(looks) else "warning", "still_frames",
                          f"{camera}: {names([*frozen])}", max(frozen.values()),
                          f"of the moving steps show no change at worst, in {len(frozen)} of {len(looks)} episodes")
        change = np.concatenate([look.change for _, look in looks])
        usual = float(np.percentile(change, 95))
        cuts = [f"{one.name} step {k + 1}" for one, look in looks
                for k in np.flatnonzero(look.change > max(3 * usual, usual + 6))]
        if cuts:
            yield Finding("warning", "jumps", f"{camera}: {names(cuts)}", float(change.max()),
                          f"mean change of a frame at most; 95 % stay under {usual:.1f}")

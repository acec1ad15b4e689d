"""Checks of labels, rates and records: pure functions from facts to findings."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from whale.data_prep.audit_facts import EpisodeFacts
from whale.data_prep.audit_finding import Finding, names
from whale.data_prep.duplicates import find_duplicates
from whale.data_prep.oxe.spec import DatasetSpec

Facts = Sequence[EpisodeFacts]


def rate(facts: Facts, spec: DatasetSpec) -> Iterator[Finding]:
    """The spec's rate against time stamps and against what the source says of its videos."""
    stated = {"time stamps": [1 / _seconds(one.period_sec, spec) for one in facts if one.period_sec]}
    for key in ("stated_fps", "video_fps"):
        stated[key] = [float(one.metadata[key]) for one in facts if key in one.metadata]
    for key, rates in stated.items():
        if rates and not 0.8 < (found := float(np.median(rates))) * spec.control_period_sec < 1.25:
            yield Finding("warning", "wrong_rate", key, found, f"Hz; the spec says {1 / spec.control_period_sec:.4g}")
    codecs = {(str(one.metadata["stated_codec"]), str(one.metadata["video_codec"])) for one in facts
              if {"stated_codec", "video_codec"} <= set(one.metadata)}
    for said, codec in sorted(pair for pair in codecs if pair[0] != pair[1]):
        yield Finding("info", "wrong_codec", "videos", None, f"the source says {said}, the files are {codec}")


def _seconds(period: float, spec: DatasetSpec) -> float:
    """A difference of time stamps in seconds: stamps count s, ms, us or ns, whichever is nearest."""
    return period / 1000 ** round(math.log(period / spec.control_period_sec, 1000))


def rows(facts: Facts) -> Iterator[Finding]:
    """As many frames as steps. One frame more at the end of a video file is usual, and left out."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for one in facts:
        for camera, look in one.cameras.items():
            if look.count and look.count != one.length:
                found[camera][one.name] = look.count - one.length
        held, steps = one.metadata.get("video_frames"), one.metadata.get("rows")
        if held is not None and steps is not None and int(held) != int(steps):
            found["video files"][one.name] = int(held) - int(steps)
    for camera, off in found.items():
        worst = max(off.values(), key=abs)
        usual = camera == "video files" and worst == 1
        yield Finding("warning" if usual else "hard", "row_frame_mismatch", f"{camera}: {names([*off])}", worst,
                      f"frames more than rows at worst, in {len(off)} of {len(facts)} episodes")


def values(facts: Facts) -> Iterator[Finding]:
    """Values that are no numbers, and features that the spec names in vain."""
    bad: dict[str, list[str]] = defaultdict(list)
    lacking: dict[str, list[str]] = defaultdict(list)
    for one in facts:
        for key in one.not_finite:
            bad[key].append(one.name)
        for reason in one.missing:
            lacking[reason].append(one.name)
    for key, found in bad.items():
        yield Finding("hard", "not_finite", f"{key}: {names(found)}", len(found), "episodes with NaN or infinity")
    for reason, found in lacking.items():
        yield Finding("hard", "features_missing", names(found), len(found), f"episodes: {reason}, which the spec names")


def labels(facts: Facts, spec: DatasetSpec) -> Iterator[Finding]:
    """Labels that are never there, or not everywhere."""
    without = {key: [one.name for one in facts if not one.labels[key]] for key in facts[0].labels}
    wanted = {"instruction": spec.instruction is not None, "success": spec.success is not None,
              "reward": spec.has_rewards, "is_last": True, "is_terminal": False}
    for key, lacking in without.items():
        never = len(lacking) == len(facts)
        if wanted[key] and (never or (lacking and key != "reward")):
            yield Finding("warning", "missing_labels", key if never else f"{key}: {names(lacking)}", len(lacking),
                          f"of {len(facts)} episodes have none")
        elif never:
            yield Finding("info", "missing_labels", key, None, "is never set, and the spec does not use it")


def duplicates(facts: Facts) -> Iterator[Finding]:
    """The same episode twice, to the byte or encoded anew: what `convert` would leave out."""
    repeats = [(facts[i], facts[k]) for i, k in find_duplicates(np.array([one.row for one in facts])).items()]
    for across in (True, False):
        for exact in (True, False):
            found = [f"{a.name} {'=' if exact else '~'} {b.name}" for a, b in repeats
                     if (a.split != b.split) is across and (a.row["content"] == b.row["content"]) == exact]
            if found:
                yield Finding("hard" if across else "warning", "duplicates", names(found), len(found),
                              f"records repeat one of {'another' if across else 'the same'} split"
                              f"{'' if exact else ', encoded anew'}")


def version(address: str, spec: DatasetSpec) -> Iterator[Finding]:
    """The version that the folder is called by, against those that the facts hold for."""
    here = re.search(r"(\d+\.\d+\.\d+)/*$", address)
    if here and spec.versions and here[1] not in spec.versions:
        yield Finding("hard", "wrong_version", here[1], None, f"the spec holds for {', '.join(spec.versions)}")

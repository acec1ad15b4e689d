"""One thing that is wrong, odd or worth knowing about a dataset, and what to do about it."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["hard", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("hard", "warning", "info")
REMEDIES = {
    "action_frame": "set `action.frame`, or correct the axes at the source",
    "action_is_next_state": "none, if `motion` is `reached`",
    "action_lag": "shift the actions, or use `motion: reached`",
    "action_scale": "set `metres`, `radians` or `control_period_sec`",
    "action_sign": "correct the signs at the source",
    "action_unrelated": "check which columns `action` and `pose` name",
    "black_camera": "choose other cameras: `convert` leaves the episodes out",
    "channels_swapped": "look at the thumbnails, and correct `bgr`",
    "constant_dimension": "check the columns of `action`, or `absent`",
    "duplicates": "`convert` keeps one of each and makes its own split",
    "features_missing": "correct the spec, or fetch another version",
    "gripper_between": "none: they are kept as they are",
    "gripper_inverted": "look at the thumbnails, and correct `gripper_rule`",
    "gripper_range": "correct `gripper_rule` or `gripper_range`",
    "jumps": "leave these episodes out",
    "missing_camera": "correct `cameras`, or fetch the dataset again",
    "missing_labels": "correct the spec, or do without",
    "not_finite": "repair the source: `convert` leaves the episodes out",
    "outliers": "look at these episodes: a glitch, or units",
    "rotation_form": "set what is named",
    "row_frame_mismatch": "align frames and rows at the source; one frame more at the end is left out",
    "still_frames": "leave these episodes out, or lower the rate",
    "unreadable": "fetch the file again",
    "wrong_codec": "none: files are read as they are",
    "wrong_rate": "watch an episode in real time, and correct `control_period_sec`",
    "wrong_version": "fetch a version that the spec holds for, or check its facts and add it to `versions`",
}
"""Every kind of finding."""


@dataclass(frozen=True)
class Finding:
    """A line of the page's first table."""

    severity: Severity
    """`hard`: learned from as it is, it teaches what is wrong. `warning`: to be looked at; some are guesses. `info`:
    true of the data, and handled."""
    kind: str
    """A key of `REMEDIES`."""
    where: str
    """Camera, feature, dimension or records."""
    number: float | None
    """What it rests on."""
    what: str
    """What the number is."""


def names(found: list[str], most: int = 3) -> str:
    """The first few of a list, and how many more there are."""
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")

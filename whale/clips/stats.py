"""`stats.json`: statistics of actions and rewards on the train split, in physical units, shipped with every model."""

import json
from pathlib import Path

import numpy as np

from whale.actions import ActionScale
from whale.clips.manifest import Manifest
from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.publish import write_json


def _summary(values: np.ndarray) -> dict[str, list[float]]:
    """Per-column statistics of [N, D]; quantiles are recorded values, not interpolated ones."""
    low, high = np.quantile(values, [0.01, 0.99], axis=0, method="nearest")
    columns = {"q01": low, "q99": high, "mean": values.mean(0), "std": values.std(0)}
    columns |= {"min": values.min(0), "max": values.max(0)}
    return {name: [float(x) for x in column] for name, column in columns.items()}


def write_stats(folder: Path, manifest: Manifest) -> None:
    """Read every train clip of a folder whose manifest is about to be published, and publish `stats.json`.

    Raises:
        UserError: no train clip has a known action.
    """
    reader = ClipReader(folder, "train", manifest)
    actions, rewards = [], []
    for k in range(len(reader)):
        clip = reader.read(k, with_frames=False)
        actions.append(clip.actions[clip.action_known])
        if clip.rewards is not None:
            rewards.append(clip.rewards[clip.action_known])
    known = np.concatenate(actions).astype(np.float64)
    if not len(known):
        raise UserError(f"no train clip in {folder} has a known action", "check the dataset's registry entry")
    values: dict = {
        "dataset": reader.manifest.dataset, "num_clips": len(reader), "num_frames": int(reader.num_frames.sum()),
        "actions": {"count": len(known), **_summary(known)}, "rewards": None,
    }
    if rewards:
        flat = np.concatenate(rewards).astype(np.float64)[:, None]
        values["rewards"] = {"count": len(flat), **{name: column[0] for name, column in _summary(flat).items()}}
    write_json(folder / "stats.json", values)


def read_scale(folder: Path) -> tuple[str, ActionScale]:
    """Name of the dataset in a folder, and the scale of its actions: the 1 % and 99 % quantiles of the train split.

    Raises:
        UserError: there is no `stats.json`.
    """
    path = Path(folder) / "stats.json"
    if not path.is_file():
        raise UserError(f"{folder} holds no stats.json", "run the task that wrote the folder again")
    values = json.loads(path.read_text())
    return values["dataset"], ActionScale(low=tuple(values["actions"]["q01"]), high=tuple(values["actions"]["q99"]))

"""Bare videos with actions as a source: a folder with, for each episode,

    <episode>.mp4                one camera, called `video`; or a folder `<episode>` with `<camera>.mp4` for each camera
    <episode>.npy or .csv        actions, one row of numbers a step (csv: by commas, without a header)
    <episode>.json               optional: an object, such as `{"instruction": "close the drawer", "success": true}`

Action t is given after frame t; a video may have more frames than there are actions. All is `train`; episodes come in
the order of their names.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whale.data_prep.files import is_local, list_folder, name_of
from whale.data_prep.source import Episode, InputShard, Unreadable, flags
from whale.data_prep.video import episode_frames
from whale.errors import UserError

EPISODES_A_UNIT = 16
"""Episodes that are one unit of work."""


def episodes_in(address: str) -> dict[str, dict[str, Path]]:
    """Videos by camera by episode, in a folder of this layout; empty where there are none.

    Raises:
        UserError: there are, at an address that is not local.
    """
    inside = list_folder(address)
    if not is_local(address):
        if any(name.endswith(".mp4") for name in inside):
            raise UserError(f"the videos in {address} are not on this machine", "copy the folder here first")
        return {}
    videos = {name[:-4]: {"video": Path(address, name)} for name in inside if name.endswith(".mp4")}
    for name, size in inside.items():
        if size is None and (cameras := {path.stem: path for path in sorted(Path(address, name).glob("*.mp4"))}):
            videos.setdefault(name, cameras)
    return dict(sorted(videos.items()))


def _actions(stem: Path) -> np.ndarray:
    """Actions of an episode, [T, A]; a ValueError when there are none."""
    npy, csv = (stem.parent / f"{stem.name}{suffix}" for suffix in (".npy", ".csv"))
    if not npy.exists() and not csv.exists():
        raise ValueError(f"it has no actions: neither {npy.name} nor {csv.name} is there")
    table = np.load(npy, allow_pickle=False) if npy.exists() else np.loadtxt(csv, delimiter=",", ndmin=2)
    if table.ndim != 2 or table.dtype.kind not in "fiu" or not table.size:
        raise ValueError(f"actions are {table.dtype} {list(table.shape)}, needed is a row of numbers a step")
    return table


class BareSource:
    """A folder of videos with actions, local."""

    def __init__(self, address: str):
        self.address, self.dataset = address, name_of(address)
        self._videos = episodes_in(address)
        self._names = list(self._videos)
        self.shards = tuple(
            InputShard(unit, str(next(iter(self._videos[names[0]].values()))), "train", first, len(names),
                       sum(path.stat().st_size for name in names for path in self._videos[name].values()))
            for unit, first in enumerate(range(0, len(self._names), EPISODES_A_UNIT))
            if (names := self._names[first : first + EPISODES_A_UNIT]))

    def read(self, shard: InputShard, cameras: Sequence[str]) -> Iterator[Episode | Unreadable]:
        """The episodes of a unit in order; `metadata` has `episode`, what its json says, and the facts of the video.

        Raises:
            UserError: a camera exists in no episode.
        """
        known = sorted({camera for videos in self._videos.values() for camera in videos})
        for camera in cameras:
            if camera not in known:
                raise UserError(f"{self.address} has no camera {camera!r}", f"choose one of: {', '.join(known)}")
        for record, name in enumerate(self._names[shard.first : shard.first + shard.num_records]):
            try:
                yield self._episode(record, name, cameras)
            except (OSError, ValueError) as error:
                yield Unreadable(record, None, f"{name}: {error}")

    def _episode(self, record: int, name: str, cameras: Sequence[str]) -> Episode:
        actions = _actions(Path(self.address, name))
        steps: dict[str, Any] = {"observation": {}, "action": actions, **flags(len(actions))}
        told = Path(self.address, f"{name}.json")
        metadata = json.loads(told.read_text()) if told.exists() else {}
        if not isinstance(metadata, dict):
            raise ValueError(f"{told.name} holds no JSON object")
        if "instruction" in metadata:
            steps["language_instruction"] = [str(metadata["instruction"])] * len(actions)
        for camera in cameras:
            if camera not in self._videos[name]:
                raise ValueError(f"it has no camera {camera!r}")
            frames, facts = episode_frames(str(self._videos[name][camera]), len(actions))
            steps["observation"][camera] = frames
            metadata = metadata | facts
        return Episode(record, steps, {"episode": name} | metadata)

"""Where imagined episodes begin: the first frames of recorded ones, found by name or drawn."""

import difflib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from whale.clips.reader import ClipReader
from whale.errors import UserError


class Start(NamedTuple):
    """The context of one episode: C frames."""

    episode: str
    """Name of the recorded episode."""
    instruction: str | None
    """What the robot was told, where recorded."""
    frames: np.ndarray
    """uint8 [C, H, W, 3]."""
    actions: np.ndarray
    """float32 [C - 1, 7], physical units, between the frames."""


class RecordedStarts:
    """The first C frames of every episode of a split that is long enough.

    Args:
        folder: of pixel clips.
        split: `train` or `val`.
        num_frames: C, at least 1.

    `names` are the episodes, in the order of the folder; `reader` reads all of their frames.

    Raises:
        UserError: it is no folder of pixel clips, or no episode has that many frames with known actions between them.
    """

    def __init__(self, folder: Path | str, split: str, num_frames: int):
        self.reader, self.num_frames = ClipReader(folder, split), num_frames
        if self.reader.manifest.kind != "pixels":
            raise UserError(f"{folder} holds {self.reader.manifest.kind}", "give pixel clips: imagination encodes them")
        self._clips: dict[str, int] = {}
        for k in range(len(self.reader)):
            clip = self.reader.read(k, with_frames=False)
            known = clip.action_known[: num_frames - 1].all()
            if clip.info.start == 0 and self.reader.num_frames[k] >= num_frames and known:
                self._clips.setdefault(clip.info.episode, k)
        self.names = list(self._clips)
        if not self.names:
            raise UserError(
                f"{folder}, split {split!r}, has no episode that begins with {num_frames} frames (the context) and "
                f"known actions between them; its longest clip has {self.reader.num_frames.max()}",
                "lower context_frames, or convert with longer clips",
            )

    def read(self, name: str) -> Start:
        """The start of an episode.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self._clips:
            near = difflib.get_close_matches(name, self.names, 3, 0) or self.names[:3]
            raise UserError(
                f"{self.reader.folder}, split {self.reader.split!r}, has no episode {name!r} of at least "
                f"{self.num_frames} frames",
                f"choose one of its {len(self.names)} episodes, as {', '.join(map(repr, near))}",
            )
        clip = self.reader.read(self._clips[name])
        assert clip.frames is not None
        context = slice(self.num_frames)
        return Start(name, clip.info.instruction, clip.frames[context], clip.actions[context][:-1])

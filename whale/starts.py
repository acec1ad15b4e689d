"""Where imagined episodes begin: as recorded ones do, found by name or by number."""

import difflib
from pathlib import Path

from whale.clips.clip import Clip
from whale.clips.reader import ClipReader
from whale.errors import UserError


class RecordedStarts:
    """The episodes of a split whose first frames can be a context; `names`, in the order of the folder.

    Args:
        folder: of pixel clips.
        split: `train` or `val`.
        num_frames: of the context, at least 1, with known actions between them.

    Raises:
        UserError: it is no folder of pixel clips, or has no such episode.
    """

    def __init__(self, folder: Path | str, split: str, num_frames: int):
        self.reader = ClipReader(folder, split)
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

    def read(self, name: str) -> Clip:
        """The clip that an episode begins with.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self._clips:
            raise UserError(
                f"{self.reader.folder}, split {self.reader.split!r}, has no episode {name!r} that is long enough",
                f"choose one of its {len(self.names)}, as {difflib.get_close_matches(str(name), self.names, 3, 0)}",
            )
        return self.reader.read(self._clips[name])

"""Where imagined episodes begin: as recorded ones do, found by name or by number."""

import difflib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from whale.action_inputs import ActionInputs
from whale.clips.clip import Clip, ClipInfo
from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.models.dataset_card import describe_actions
from whale.models.world_model import WorldModel


class Start(NamedTuple):
    """The clip that a recorded episode begins with."""

    clip: int
    """Its number in the folder."""
    info: ClipInfo
    known_frames: int
    """Frames up to the first step whose action is not known, which has its frame."""


class RecordedStarts:
    """The episodes of a split that begin with enough known frames: `episodes` by name, in the order of the folder.

    Args:
        folder: of pixel clips.
        split: `train` or `val`.
        num_frames: that an episode has at least, with known actions between them; at least 1.
        most: episodes to look for; None takes all.

    Raises:
        UserError: it is no folder of pixel clips, or has no such episode.
    """

    def __init__(self, folder: Path | str, split: str, num_frames: int, most: int | None = None):
        self.reader = ClipReader(folder, split)
        if self.reader.manifest.kind != "pixels":
            raise UserError(f"{folder} holds {self.reader.manifest.kind}", "give pixel clips: imagination encodes them")
        self.episodes: dict[str, Start] = {}
        for k in range(len(self.reader)):
            clip = self.reader.read(k, with_frames=False)
            known = int(np.argmin(np.append(clip.action_known[:-1], False))) + 1
            if clip.info.start == 0 and known >= num_frames:
                self.episodes.setdefault(clip.info.episode, Start(k, clip.info, known))
            if len(self.episodes) == most:
                break
        self.names = list(self.episodes)
        if not self.names:
            raise UserError(
                f"{folder}, split {split!r}, has no episode that begins with {num_frames} frames and known actions "
                f"between them; its longest clip has {self.reader.num_frames.max()}",
                "lower context_frames, or convert with longer clips",
            )

    def inputs(self, model: WorldModel) -> ActionInputs:
        """How a model is given the actions of these episodes.

        Raises:
            UserError: it does not know the dataset, or knows other actions of it, or frames of another size.
        """
        first, folder = self.episodes[self.names[0]].info, self.reader.folder
        inputs = ActionInputs(model, first.dataset, first.control_period_sec)
        words = describe_actions(first.action_type.value, first.action_status)
        if words != inputs.card.actions:
            raise UserError(
                f"{folder} holds {words}, the model knows {inputs.card.actions}",
                "name clips that were converted as the model's data was, or another model",
            )
        frames, own = self.read(self.names[0]).frames, model.config.tokenizer.image_px
        assert frames is not None
        if frames.shape[1] != own:
            raise UserError(
                f"the model takes frames of {own} px, {folder} has {frames.shape[1]} px",
                f"name clips converted with size_px={own}, or another model",
            )
        return inputs

    def read(self, name: str) -> Clip:
        """The clip that an episode begins with.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self.episodes:
            raise UserError(
                f"{self.reader.folder}, split {self.reader.split!r}, has no episode {name!r} that is long enough",
                f"choose one of its {len(self.names)}, as {difflib.get_close_matches(str(name), self.names, 3, 0)}",
            )
        return self.reader.read(self.episodes[name].clip)

"""RLDS datasets, read without TensorFlow: the default reader."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from whale.data_prep.example import Example
from whale.data_prep.features import Leaf, Tree, check_steps, decode, read_tree
from whale.data_prep.files import join
from whale.data_prep.rlds_folder import read_description
from whale.data_prep.source import Episode, InputShard, Unreadable, flags
from whale.data_prep.tfrecord import read_records
from whale.errors import UserError

MAX_NUMBERS = 4096
"""Features of more numbers a step are left out: a depth image or a point cloud costs more than all the rest together,
and nothing here reads it.
"""


def _small(tree: Tree | Leaf) -> bool:
    """Whether a feature is to be decoded; images stay as they are stored."""
    sized = isinstance(tree, Leaf) and not tree.is_image and None not in tree.shape
    return not sized or math.prod(tree.shape) <= MAX_NUMBERS  # type: ignore[union-attr, arg-type]


def _without_large(tree: Tree) -> Tree:
    kept = {name: one for name, one in tree.items() if _small(one)}
    return {name: _without_large(one) if isinstance(one, dict) else one for name, one in kept.items()}


class RldsSource:
    """An RLDS dataset in a TFDS version folder, local or at an address.

    Raises:
        UserError: the folder is no TFDS dataset or not RLDS, a file is missing or a Git-LFS pointer, or a feature is of
            a type that only tensorflow-datasets can read.
    """

    def __init__(self, address: str):
        self.address = address
        self.dataset, description, self.shards = read_description(address)
        self.features = read_tree(description, join(address, "features.json"))

    def _wanted(self, cameras: Sequence[str]) -> Tree:
        """The features to decode: of the images in `observation`, these cameras alone."""
        observation = self.features["steps"].get("observation", {})
        images = [name for name, feature in observation.items() if getattr(feature, "is_image", False)]
        for camera in cameras:
            if camera not in images:
                problem = f"{self.address} has no camera {camera!r}"
                raise UserError(problem, f"choose one of: {', '.join(images)}")
        kept = {name: feature for name, feature in observation.items() if name not in images or name in cameras}
        steps = self.features["steps"] | ({"observation": kept} if observation else {})
        return self.features | {"steps": _without_large(steps)}

    def read(self, shard: InputShard, cameras: Sequence[str]) -> Iterator[Episode | Unreadable]:
        """The records of an input shard in order, images still encoded; what is damaged is passed over.

        Raises:
            UserError: a camera does not exist, or the file cannot be opened.
        """
        tree = self._wanted(cameras)
        for record in read_records(shard.path, shard.num_records):
            if isinstance(record, Unreadable):
                yield record
                continue
            try:
                episode = to_episode(record.number, decode(tree, Example(record.data)))
            except ValueError as error:
                yield Unreadable(record.number, record.offset, f"it is no episode: {error}")
                continue
            yield episode


def to_episode(record: int, values: dict[str, Any]) -> Episode:
    """What a record holds, as an episode: its metadata are `episode_metadata` and whatever else is beside the steps.

    Raises:
        ValueError: its features do not have as many steps.
    """
    beside = {name: value for name, value in values.items() if name not in ("steps", "episode_metadata")}
    steps = flags(check_steps(values["steps"])) | values["steps"]
    return Episode(record, steps, beside | values.get("episode_metadata", {}))

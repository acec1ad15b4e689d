"""What every reader of recorded robot data gives: input shards, and the episodes in them.

RLDS is read by our own reader (`tfrecord`, no TensorFlow) or by tensorflow-datasets (`tfds`); LeRobot folders and bare
videos with actions are read in their own files. What follows a reader does not know which it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from whale.data_prep.files import join, list_folder, name_of
from whale.errors import UserError

Reader = Literal["tfrecord", "tfds"]


@dataclass(frozen=True)
class InputShard:
    """The unit of work: one TFRecord file, one data file of LeRobot v3, or a run of single-episode files."""

    unit: int
    """Its number over the whole dataset."""
    path: str
    """Address of the file; of the first, where it is several."""
    split: str
    """The split that the source puts it in."""
    first: int
    """Index in that split of its first record."""
    num_records: int
    num_bytes: int

    @property
    def name(self) -> str:
        """How it is called in records and reports: the last part of its address."""
        return name_of(self.path)


@dataclass(frozen=True)
class Episode:
    """One record, as its source stores it."""

    record: int
    """Its index in the input shard."""
    steps: dict[str, Any]
    """Arrays with leading [T], nested by feature name. A camera, in `observation`, is a list of T encoded images, or
    a `VideoFrames`."""
    metadata: dict[str, Any]
    """Scalars and strings; empty where the source has none."""


@dataclass(frozen=True)
class Unreadable:
    """A record that cannot be read, with the reason: it is quarantined, and reading goes on behind it."""

    record: int
    offset: int | None
    """Where it starts in the input shard, in bytes; None where the source has no such thing."""
    reason: str
    num_records: int = 1
    """How many records are lost with it: all that follow, when the file cannot be read on."""


def flags(length: int) -> dict[str, np.ndarray]:
    """`is_first`, `is_last` and `is_terminal`, bool [length], of an episode that tells no end but its last step."""
    step = np.arange(length)
    return {"is_first": step == 0, "is_last": step == length - 1, "is_terminal": step < 0}


class Source(Protocol):
    """A dataset on disk or at an address. Can be pickled: worker processes read their input shards themselves."""

    @property
    def dataset(self) -> str:
        """Name of the dataset, as the source says it."""

    @property
    def shards(self) -> tuple[InputShard, ...]:
        """In a fixed order, split by split, `train` first."""

    def read(self, shard: InputShard, cameras: Sequence[str]) -> Iterator[Episode | Unreadable]:
        """The records of an input shard, in order, with these cameras.

        Raises:
            UserError: a camera does not exist, or the file cannot be opened at all.
        """


def open_source(address: str, reader: Reader = "tfrecord") -> Source:
    """The dataset in a folder, told by what lies in it.

    Raises:
        UserError: the folder is missing, or holds nothing that can be read.
    """
    names = list_folder(address)
    if not names:
        raise UserError(f"there is no dataset folder {address}", "check `source`")
    if "info.json" in list_folder(join(address, "meta")):
        from whale.data_prep.lerobot import LeRobotSource

        return LeRobotSource(address)
    from whale.data_prep.bare import BareSource, episodes_in

    if episodes_in(address):
        return BareSource(address)
    if reader == "tfds":
        from whale.data_prep.rlds import TfdsSource

        return TfdsSource(address)
    from whale.data_prep.rlds_source import RldsSource

    return RldsSource(address)

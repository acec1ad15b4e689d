"""Configurations of the data preparation tasks."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from whale.config import configclass
from whale.data_prep.oxe.spec import DatasetSpec
from whale.data_prep.source import Reader

Positive = Annotated[int, Field(ge=1)]


@configclass
class CollectConfig:
    """Roll graded policies in the tabletop world and write RLDS."""

    out: Path
    """Folder that receives `tabletop/<version>`, replacing an earlier one."""
    episodes: Positive
    """How many episodes, a million at most; the policies take turns."""
    steps: Annotated[int, Field(ge=2)] = 36
    """Frames an episode, the first included."""
    shards: Positive = 4
    """TFRecord files to spread the episodes over."""
    seed: int = 0
    """Start states and policies' noise, 0 to 999: what lies beyond is kept for the start states of `eval value`."""
    scene: Literal["standard", "shifted"] = "standard"
    """`shifted` has another camera and other colours."""
    policies: tuple[str, ...] | None = None
    """Names from whale/sim/policies.py; null takes all twelve."""

    def __post_init__(self) -> None:
        """Keep episodes apart from those of other seeds and from what they are evaluated on."""
        if not 0 <= self.seed < 1000:
            raise ValueError(f"seed {self.seed} must be from 0 to 999")
        if self.episodes > 1_000_000:
            raise ValueError(f"episodes {self.episodes} must be at most 1000000")


@configclass
class ConvertConfig:
    """Turn a dataset into pixel clips."""

    source: str
    """Folder or address (`gs://...`) of the dataset; of a TFDS dataset, the version folder with `features.json`."""
    out: Path
    """Folder of clips to write."""
    reader: Reader = "tfrecord"
    """What reads RLDS: `tfrecord` needs no TensorFlow, `tfds` reads any feature type; the bytes do not depend on it."""
    dataset: str | None = None
    """Name of the registry entry; null takes the dataset's own name."""
    spec: DatasetSpec | None = None
    """What is known of a dataset that has no entry, in the terms of data_prep/oxe/spec.py."""
    known: tuple[Path, ...] = ()
    """Folders of clips converted before: episodes that they hold are left out as duplicates."""
    camera: str = "image_0"
    """Observation key of the camera."""
    size_px: Positive = 64
    """Height and width of the frames; others are resized (by area), not cropped."""
    control_period_sec: Annotated[float, Field(gt=0)] | None = None
    """Keep every k-th frame, so that two are about this far apart, and join the actions between; null keeps all."""
    clip_frames: Annotated[int, Field(ge=2)] | None = None
    """Cut episodes into clips of this many frames, one after the other; null keeps episodes whole."""
    min_frames: Annotated[int, Field(ge=2)] = 2
    """Leave out episodes with fewer frames, counted at the rate of the clips."""
    max_unreadable: Annotated[int, Field(ge=0)] = 0
    """With more unreadable episodes than this the exit code is 1; what can be read is converted in any case."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Chance of a source recording to be held out; at least one is on each side."""
    split_seed: int = 0
    """Another seed holds out other sources."""
    workers: Positive = 1
    """Processes that work through input shards; the bytes do not depend on it."""
    tasks: Positive = 1
    """Share the input shards out over this many runs of the command, such as a SLURM array; nor on this."""
    task: Annotated[int, Field(ge=0)] = 0
    """Which of them this run is, from 0; the last to end finishes, the others say what is still to be done."""

    def __post_init__(self) -> None:
        """A task beyond the last has nothing to do; a dataset is described once."""
        if self.dataset is not None and self.spec is not None:
            raise ValueError("give `dataset`, the name of an entry, or `spec`, not both")
        if ":/" in str(self.out):
            raise ValueError(f"out {self.out} is no path on this machine: clips are not written to addresses")
        if self.task >= self.tasks:
            raise ValueError(f"task {self.task} must be below tasks {self.tasks}: they are counted from 0")

    def owns(self, unit: int) -> bool:
        """Whether input shard number `unit` is this task's."""
        return unit % self.tasks == self.task


@configclass
class VerifyConfig:
    """Rehash every shard of a folder and read every clip."""

    clips: Path
    """Folder of clips, pixels or tokens."""
    workers: Positive = 1
    """Processes that work through shards."""

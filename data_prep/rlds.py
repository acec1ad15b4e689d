"""Reads RLDS: episodes as NumPy arrays out of TFDS folders, one input shard at a time.

The only file (with the writer for `collect`) that imports TensorFlow, and only where records are read. What can be
checked without it is checked before: a wrong path or an LFS pointer is told at once.
"""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whale.errors import UserError

LFS_MAGIC = b"version https://git-lfs"
MAX_STEPS = 1_000_000
"""Longest episode read, in steps."""


@dataclass(frozen=True)
class InputShard:
    """One TFRecord file of a dataset."""

    unit: int
    """Its number over all splits: the unit of work."""
    path: Path
    split: str
    """The split that the source puts it in."""
    first: int
    """Index in that split of its first record."""
    num_records: int


@dataclass(frozen=True)
class Episode:
    """One record: `steps` arrays with leading [T], images still encoded as bytes; `metadata` scalars and strings."""

    record: int
    steps: dict[str, Any]
    metadata: dict[str, Any]


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(LFS_MAGIC)) == LFS_MAGIC:
            raise UserError(f"{path} is a Git-LFS pointer, not the data", "run `git lfs pull` where it came from")


def _read_json(path: Path) -> dict[str, Any]:
    _refuse_pointer(path)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}", "fetch the dataset again") from None


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"there is no dataset folder {folder}", "check `source`")
    if not (folder / "features.json").is_file() or not (folder / "dataset_info.json").is_file():
        inside = sorted(path.parent for path in folder.glob("**/features.json"))[:3]
        remedy = f"name the version folder, such as {inside[0]}" if inside else (
            "convert the data to RLDS with tensorflow-datasets first; a bare TFRecord does not say what it holds")
        raise UserError(f"{folder} is no TFDS dataset folder: it has no features.json and dataset_info.json", remedy)


def open_rlds(folder: Path) -> tuple[str, list[InputShard]]:
    """Name of the dataset in a TFDS version folder, and its shards: split by split, `train` first.

    Raises:
        UserError: the folder is missing, is no TFDS dataset or not RLDS, or a shard is missing or an LFS pointer.
    """
    _check_folder(folder)
    name = _read_json(folder / "dataset_info.json").get("name", folder.parent.name)
    features = _read_json(folder / "features.json").get("featuresDict", {}).get("features", {})
    if "steps" not in features:
        raise UserError(
            f"{folder} is a flat dataset, not RLDS: no `steps` among its features ({', '.join(sorted(features))})",
            "group its records into episodes first; RLDS has one episode a record, with a dataset of `steps`",
        )
    import tensorflow_datasets as tfds

    splits = tfds.builder_from_directory(folder).info.splits
    shards: list[InputShard] = []
    for split in sorted(splits, key=lambda split: (split != "train", split)):
        first = 0
        for path, count in zip(splits[split].filepaths, splits[split].shard_lengths, strict=True):
            path = Path(path)
            if not path.is_file():
                raise UserError(f"the input shard {path} is missing", "fetch the dataset again")
            _refuse_pointer(path)
            shards.append(InputShard(len(shards), path, split, first, count))
            first += count
    return name, shards


def import_tensorflow() -> tuple[Any, Any]:
    """TensorFlow, without its start-up chatter, and tensorflow-datasets."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    return tf, tfds


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image"


def read_episodes(shard: InputShard, cameras: Sequence[str]) -> Iterator[Episode]:
    """The episodes of one input shard in order, images still encoded.

    Raises:
        UserError: a camera does not exist, or the file is cut off, damaged, or holds another number of records.
    """
    tf, tfds = import_tensorflow()
    features = tfds.builder_from_directory(shard.path.parent).info.features
    images = [key for key, feature in features["steps"].feature["observation"].items() if _is_image(feature)]
    for camera in cameras:
        if camera not in images:
            problem = f"{shard.path.parent} has no camera {camera!r}"
            raise UserError(problem, f"choose one of: {', '.join(images)}")
    decoders = {"steps": {"observation": dict.fromkeys(images, tfds.decode.SkipDecoding())}}

    def parse(record: Any) -> Any:
        episode = features.deserialize_example(record, decoders=decoders)
        episode["steps"] = episode["steps"].batch(MAX_STEPS).get_single_element()
        return episode

    records = tf.data.TFRecordDataset(str(shard.path)).map(parse).as_numpy_iterator()
    count = 0
    while True:
        try:
            episode = next(records, None)
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            reason = "cut off or damaged" if isinstance(error, tf.errors.DataLossError) else "not an episode"
            raise UserError(f"{shard.path}: record {count} is {reason}", "fetch this file again") from None
        if episode is None:
            break
        yield Episode(count, episode["steps"], episode["episode_metadata"])
        count += 1
    if count != shard.num_records:
        problem = f"{shard.path} ends after {count} records, dataset_info.json says {shard.num_records}"
        raise UserError(problem, "fetch this file again")

"""Reads RLDS: episodes as NumPy arrays out of TFDS folders, one input shard at a time.

The only file (with the writer for `collect`) that imports TensorFlow, and only where records are read. What can be
checked without it is checked before: a wrong path or an LFS pointer is told at once.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from whale.data_prep.files import is_local, join, list_folder, open_file, read_json
from whale.data_prep.source import Episode, InputShard, Unreadable
from whale.errors import UserError

LFS_MAGIC = b"version https://git-lfs"
MAX_STEPS = 1_000_000
"""Longest episode read, in steps."""


def _refuse_pointer(path: str) -> None:
    with open_file(path) as file:
        if file.read(len(LFS_MAGIC)) == LFS_MAGIC:
            raise UserError(f"{path} is a Git-LFS pointer, not the data", "run `git lfs pull` where it came from")


def _check_folder(folder: str) -> None:
    inside = list_folder(folder)
    if "features.json" not in inside or "dataset_info.json" not in inside:
        below = [join(folder, one) for one in inside if "features.json" in list_folder(join(folder, one))][:3]
        remedy = f"name the version folder, such as {below[0]}" if below else (
            "convert the data to RLDS with tensorflow-datasets first; a bare TFRecord does not say what it holds")
        raise UserError(f"{folder} is no TFDS dataset folder: it has no features.json and dataset_info.json", remedy)


def check_rlds(folder: str) -> str:
    """Name of the dataset in a TFDS version folder.

    Raises:
        UserError: the folder is no TFDS dataset, or not RLDS.
    """
    _check_folder(folder)
    name = read_json(join(folder, "dataset_info.json")).get("name", "")
    features = read_json(join(folder, "features.json")).get("featuresDict", {}).get("features", {})
    if "steps" not in features:
        raise UserError(
            f"{folder} is a flat dataset, not RLDS: no `steps` among its features ({', '.join(sorted(features))})",
            "group its records into episodes first; RLDS has one episode a record, with a dataset of `steps`",
        )
    return name


def import_tensorflow() -> tuple[Any, Any]:
    """TensorFlow, without its start-up chatter, and tensorflow-datasets."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    return tf, tfds


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image"


class TfdsSource:
    """An RLDS dataset, read by tensorflow-datasets: any feature type, and the oracle of our own reader.

    Raises:
        UserError: the folder is missing, is no TFDS dataset or not RLDS, or a shard is missing or an LFS pointer.
    """

    def __init__(self, address: str):
        self.address = address
        self.dataset = check_rlds(address)
        import tensorflow_datasets as tfds

        splits = tfds.builder_from_directory(address).info.splits
        shards: list[InputShard] = []
        inside = list_folder(address)
        for split in sorted(splits, key=lambda split: (split != "train", split)):
            first = 0
            for path, count in zip(splits[split].filepaths, splits[split].shard_lengths, strict=True):
                size = inside.get(path.name)
                if size is None:
                    raise UserError(f"the input shard {path} is missing", "fetch the dataset again")
                if is_local(address):
                    _refuse_pointer(str(path))
                shards.append(InputShard(len(shards), join(address, path.name), split, first, count, size))
                first += count
        self.shards = tuple(shards)

    def read(self, shard: InputShard, cameras: Sequence[str]) -> Iterator[Episode | Unreadable]:
        """The records of one input shard in order, images still encoded.

        Raises:
            UserError: a camera does not exist, or the file is cut off, damaged, or holds another number of records.
        """
        tf, tfds = import_tensorflow()
        features = tfds.builder_from_directory(self.address).info.features
        images = [key for key, feature in features["steps"].feature["observation"].items() if _is_image(feature)]
        for camera in cameras:
            if camera not in images:
                problem = f"{self.address} has no camera {camera!r}"
                raise UserError(problem, f"choose one of: {', '.join(images)}")
        decoders = {"steps": {"observation": dict.fromkeys(images, tfds.decode.SkipDecoding())}}

        def parse(record: Any) -> Any:
            episode = features.deserialize_example(record, decoders=decoders)
            episode["steps"] = episode["steps"].batch(MAX_STEPS).get_single_element()
            return episode

        records = tf.data.TFRecordDataset(shard.path).map(parse).as_numpy_iterator()
        count = 0
        while True:
            try:
                episode = next(records, None)
            except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
                reason = "cut off or damaged" if isinstance(error, tf.errors.DataLossError) else "not an episode"
                raise UserError(f"{shard.path}: record {count} is {reason}", "fetch this file again") from None
            if episode is None:
                break
            yield Episode(count, episode["steps"], episode.get("episode_metadata", {}))
            count += 1
        if count != shard.num_records:
            problem = f"{shard.path} ends after {count} records, dataset_info.json says {shard.num_records}"
            raise UserError(problem, "fetch this file again")

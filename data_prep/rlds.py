"""Reads RLDS with tensorflow-datasets: any feature type, and the oracle of our own reader.

The only file (with the writer for `collect`) that imports TensorFlow, and only where records are read. What can be
checked without it is checked before: a wrong path or an LFS pointer is told at once.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from whale.data_prep.rlds_folder import read_description
from whale.data_prep.rlds_source import to_episode
from whale.data_prep.source import Episode, InputShard, Unreadable
from whale.errors import UserError

MAX_STEPS = 1_000_000
"""Longest episode read, in steps."""


def import_tensorflow() -> tuple[Any, Any]:
    """TensorFlow, without its start-up chatter, and tensorflow-datasets."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    return tf, tfds


def _keep_encoded(features: Any, skip: Any) -> dict[str, Any]:
    """Decoders that leave every image in a dictionary of features as it is stored."""
    inside = dict(features.items())
    nested = {name: _keep_encoded(feature, skip) for name, feature in inside.items() if hasattr(feature, "keys")}
    images = {name: skip for name, feature in inside.items() if type(feature).__name__ == "Image"}
    return images | {name: decoders for name, decoders in nested.items() if decoders}


class TfdsSource:
    """An RLDS dataset, read by tensorflow-datasets.

    Raises:
        UserError: the folder is missing, is no TFDS dataset or not RLDS, or a shard is missing or an LFS pointer.
    """

    def __init__(self, address: str):
        self.address = address
        self.dataset, _, self.shards = read_description(address)

    def read(self, shard: InputShard, cameras: Sequence[str]) -> Iterator[Episode | Unreadable]:
        """The records of one input shard in order, images still encoded.

        Raises:
            UserError: a camera does not exist, or the file is cut off, damaged, or holds another number of records.
        """
        tf, tfds = import_tensorflow()
        features = tfds.builder_from_directory(self.address).info.features
        decoders = _keep_encoded(features, tfds.decode.SkipDecoding())
        decoders["steps"] = _keep_encoded(features["steps"].feature, tfds.decode.SkipDecoding())
        images = [*decoders["steps"].get("observation", {})]
        for camera in cameras:
            if camera not in images:
                problem = f"{self.address} has no camera {camera!r}"
                raise UserError(problem, f"choose one of: {', '.join(images)}")

        def parse(record: Any) -> Any:
            episode = features.deserialize_example(record, decoders=decoders)
            episode["steps"] = episode["steps"].batch(MAX_STEPS).get_single_element()
            return episode

        records = tf.data.TFRecordDataset(shard.path).map(parse).as_numpy_iterator()
        count = 0
        while True:
            try:
                values = next(records, None)
            except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
                reason = "cut off or damaged" if isinstance(error, tf.errors.DataLossError) else "not an episode"
                raise UserError(f"{shard.path}: record {count} is {reason}", "fetch this file again") from None
            if values is None:
                break
            observation = values["steps"].get("observation", {})
            encoded = {name: list(observation.pop(name)) for name in images}
            observation |= {name: encoded[name] for name in cameras}
            yield to_episode(count, values)
            count += 1
        if count != shard.num_records:
            problem = f"{shard.path} ends after {count} records, dataset_info.json says {shard.num_records}"
            raise UserError(problem, "fetch this file again")

"""What tensorflow-datasets writes and reads, for comparison. Runs in a process of its own: it loads TensorFlow."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def _import():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import tensorflow as tf
    import tensorflow_datasets as tfds

    return tf, tfds


def build(description: Any) -> Any:
    """A feature from nested dictionaries of (class name, positional argument, keywords)."""
    _, tfds = _import()
    if isinstance(description, dict):
        return tfds.features.FeaturesDict({name: build(inside) for name, inside in description.items()})
    name, inner, keywords = description
    keywords = {key: np.object_ if value == "string" and key == "dtype" else value for key, value in keywords.items()}
    if "dtype" in keywords and isinstance(keywords["dtype"], str):
        keywords["dtype"] = np.dtype(keywords["dtype"]).type
    return getattr(tfds.features, name)(*([build(inner)] if inner is not None else []), **keywords)


def _undecoded(feature: Any, skip: Any) -> Any:
    if type(feature).__name__ in ("Dataset", "Sequence", "Video"):
        return _undecoded(feature.feature, skip)
    if type(feature).__name__ in ("Image", "LabeledImage"):
        return skip
    if hasattr(feature, "items"):
        return {name: found for name, one in feature.items() if (found := _undecoded(one, skip))}
    return None


def _values(tensor: Any, tf: Any) -> Any:
    if isinstance(tensor, dict):
        return {name: _values(inside, tf) for name, inside in tensor.items()}
    if isinstance(tensor, tf.data.Dataset):
        return [_values(one, tf) for one in tensor]
    if isinstance(tensor, tf.RaggedTensor):
        return ["ragged", tensor.dtype.name, tensor.to_list()]
    return tensor.numpy()


def write_and_read(description: Any, episodes: list[Any]) -> tuple[dict, list[bytes], list[Any]]:
    """`features.json`, the records, and each as tensorflow-datasets reads it: `steps` as a list of dictionaries."""
    tf, tfds = _import()
    features = build(description)
    with tempfile.TemporaryDirectory() as folder:
        features.save_config(folder)
        described = json.loads((Path(folder) / "features.json").read_text())
        features = tfds.features.FeatureConnector.from_config(folder)
    decoders = _undecoded(features, tfds.decode.SkipDecoding())
    records = [features.serialize_example(episode) for episode in episodes]
    read = [_values(features.deserialize_example(record, decoders=decoders), tf) for record in records]
    return described, records, read


def parse(records: list[bytes]) -> list[dict[str, tuple[str | None, list]] | None]:
    """Kind and values by key, as protobuf parses an Example; None where it refuses."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    parsed: list[Any] = []
    for record in records:
        try:
            features = tf_example_pb2.Example.FromString(record).features.feature
        except DecodeError:
            parsed.append(None)
            continue
        kinds = {key: feature.WhichOneof("kind") for key, feature in features.items()}
        parsed.append({key: (kind, list(getattr(features[key], kind).value) if kind else [])
                       for key, kind in kinds.items()})
    return parsed


def write_dataset(folder: str, name: str, description: Any, episodes: list[Any], shards: int) -> None:
    """A TFDS version folder with a split `train`."""
    tf, _ = _import()
    features = build(description)
    Path(folder).mkdir(parents=True)
    features.save_config(folder)
    counts = []
    for shard in range(shards):
        own = episodes[shard::shards]
        counts.append(str(len(own)))
        path = f"{folder}/{name}-train.tfrecord-{shard:05d}-of-{shards:05d}"
        with tf.io.TFRecordWriter(path) as writer:
            for episode in own:
                writer.write(features.serialize_example(episode))
    split = {"name": "train", "shardLengths": counts, "numBytes": "1",
             "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
    info = {"name": name, "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    Path(folder, "dataset_info.json").write_text(json.dumps(info))


def read_folder(folder: str, split: str) -> list[Any]:
    """All episodes of a split by its default iteration, images not decoded."""
    tf, tfds = _import()
    builder = tfds.builder_from_directory(folder)
    decoders = _undecoded(builder.info.features, tfds.decode.SkipDecoding())
    data = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
    return [_values(episode, tf) for episode in data]


def pixels(folder: str, split: str, camera: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames of each episode, uint8 [T, H, W, 3], as it decodes them, and with libjpeg's accurate DCT instead."""
    tf, tfds = _import()
    builder = tfds.builder_from_directory(folder)
    data = builder.as_dataset(split=split, shuffle_files=False)
    fast = [np.stack([step["observation"][camera].numpy() for step in episode["steps"]]) for episode in data]

    def decode(image: bytes) -> np.ndarray:
        return tf.io.decode_jpeg(image, dct_method="INTEGER_ACCURATE").numpy()

    episodes = (episode["steps"] for episode in read_folder(folder, split))
    accurate = [np.stack([decode(step["observation"][camera]) for step in steps]) for steps in episodes]
    return list(zip(fast, accurate, strict=True))


def tfds_source(folder: str, cameras: list[str]) -> list[Any]:
    """Every episode of every input shard as `TfdsSource` gives it: record, steps and metadata."""
    from whale.data_prep.source import open_source

    source = open_source(folder, "tfds")
    found = [one for shard in source.shards for one in source.read(shard, cameras)]
    return [(one.record, one.steps, one.metadata) for one in found]

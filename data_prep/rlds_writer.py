"""Writes episodes as RLDS with tensorflow-datasets, for `collect`."""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from whale.data_prep.rlds import import_tensorflow
from whale.publish import publish_folder

VERSION = "1.0.0"


def _sort_features(path: Path, tf: Any) -> None:
    """Write a TFRecord again with the features of each record in alphabetical order.

    They are a protobuf map, which every process serialises in an order of its own.
    """
    records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(tf.train.Example.FromString(record).SerializeToString(deterministic=True))


def write_rlds(
    out: Path, name: str, image_px: int, proprio_dim: int, num_shards: int,
    episodes: Callable[[], Iterator[tuple[int, dict[str, Any]]]],
) -> Path:
    """Publish `<out>/<name>/<VERSION>` with one split, `train`; returns that folder.

    `episodes()` yields (key, episode) with ascending keys; an episode has `steps`, a list of dictionaries, and
    `episode_metadata`. Images are PNG bytes. Equal episodes give equal TFRecord bytes.
    """
    tf, tfds = import_tensorflow()
    features = tfds.features
    step = {
        "observation": {
            "image": features.Image(shape=(image_px, image_px, 3), encoding_format="png", doc="Camera"),
            "state": features.Tensor(shape=(proprio_dim,), dtype=np.float32, doc="Gripper x, y, height (m), is open"),
        },
        "action": features.Tensor(shape=(7,), dtype=np.float32, doc="Canonical: dx dy dz (m), rotvec (rad), gripper"),
        "reward": features.Scalar(dtype=np.float32, doc="Received after the action"),
        "discount": features.Scalar(dtype=np.float32),
        "is_first": features.Scalar(dtype=np.bool_),
        "is_last": features.Scalar(dtype=np.bool_),
        "is_terminal": features.Scalar(dtype=np.bool_),
        "language_instruction": features.Text(),
    }
    metadata = {
        "file_path": features.Text(doc="Identity of the episode"),
        "policy": features.Text(),
        "seed": features.Scalar(dtype=np.int64, doc="Seed of the start state and of the policy's noise"),
        "success": features.Scalar(dtype=np.bool_),
    }

    with tfds.core.registered.skip_registration():  # it is found by its folder, not by its name

        class Builder(tfds.core.GeneratorBasedBuilder):  # type: ignore[name-defined]
            """The dataset; TFDS derives nothing from the class but its name, which is overridden."""

            VERSION = tfds.core.Version(VERSION)
            code_path = None  # there is no folder of checksums to look for

            def _info(self) -> Any:
                structure = features.FeaturesDict({"steps": features.Dataset(step), "episode_metadata": metadata})
                return tfds.core.DatasetInfo(builder=self, features=structure, disable_shuffling=True)

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {"train": episodes()}

            def _generate_examples(self) -> None:
                """Not used: the split's generator is given directly."""

    Builder.name = name
    tfds.disable_progress_bar()
    with publish_folder(out / name / VERSION) as temporary, tempfile.TemporaryDirectory(dir=temporary) as work:
        builder = Builder(data_dir=work)
        with contextlib.redirect_stdout(io.StringIO()):  # it announces a download; there is none
            builder.download_and_prepare(
                download_dir=Path(work) / "downloads",
                download_config=tfds.download.DownloadConfig(num_shards=num_shards),
            )
        for path in sorted((Path(work) / name / VERSION).iterdir()):
            if "tfrecord" in path.name:
                _sort_features(path, tf)
            path.rename(temporary / path.name)
    return out / name / VERSION

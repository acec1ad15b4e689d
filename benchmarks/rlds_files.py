"""Writes RLDS without TensorFlow, for benchmarks and tests: TFRecord files and their description, as TFDS lays them."""

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from whale.data_prep.tfrecord import masked_crc32c


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _feature(values: Any) -> bytes:
    if isinstance(values, list):
        return _field(1, b"".join(_field(1, one) for one in values))
    values = np.ravel(values)
    if values.dtype.kind == "f":
        return _field(2, _field(1, values.astype("<f4").tobytes()))
    return _field(3, _field(1, b"".join(_varint(int(one)) for one in values)))


def record(features: dict[str, Any]) -> bytes:
    """A framed `tf.train.Example`; strings are lists of bytes, numbers are arrays."""
    entries = (_field(1, _field(1, name.encode()) + _field(2, _feature(values)))
               for name, values in sorted(features.items()))
    data = _field(1, b"".join(entries))
    length = struct.pack("<Q", len(data))
    return b"".join([length, struct.pack("<I", masked_crc32c(length)), data, struct.pack("<I", masked_crc32c(data))])


def episode(name: str, images: Sequence[bytes], actions: np.ndarray, **others: Any) -> dict[str, Any]:
    """Features of an episode: camera `image`, `action` float32 [T, 7], flags, and others by their full key."""
    steps = np.arange(len(actions))
    values = {"episode_metadata/file_path": [name.encode()], "steps/observation/image": list(images),
              "steps/action": np.asarray(actions, np.float32)}
    flags = {"is_first": steps == 0, "is_last": steps == steps[-1], "is_terminal": steps < 0}
    return values | {f"steps/{key}": flag for key, flag in flags.items()} | others


def write(folder: Path, shards: Sequence[Sequence[dict[str, Any]]], name: str = "generated") -> Path:
    """A version folder with one split, `train`; returns it."""
    folder.mkdir(parents=True)
    for i, episodes in enumerate(shards):
        path = folder / f"{name}-train.tfrecord-{i:05d}-of-{len(shards):05d}"
        path.write_bytes(b"".join(record(one) for one in episodes))
    split = {"name": "train", "shardLengths": [str(len(episodes)) for episodes in shards]}
    info = {"name": name, "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(_described(shards[0][0])))
    return folder


def _described(features: dict[str, Any]) -> dict[str, Any]:
    prefix = "tensorflow_datasets.core.features."

    def leaf(key: str, values: Any) -> dict[str, Any]:
        if isinstance(values, list):
            kind = "image_feature.Image" if "/observation/" in key else "text_feature.Text"
            return {"pythonClassName": prefix + kind}
        dimensions = [str(one) for one in values.shape[1:]]
        tensor = {"dtype": str(values.dtype), "encoding": "none", "shape": {"dimensions": dimensions}}
        return {"pythonClassName": prefix + "tensor_feature.Tensor", "tensor": tensor}

    def node(inside: dict[str, Any]) -> dict[str, Any]:
        return {"pythonClassName": prefix + "features_dict.FeaturesDict", "featuresDict": {"features": inside}}

    def tree(start: str) -> dict[str, Any]:
        names = sorted({key[len(start) :].split("/")[0] for key in features if key.startswith(start)})
        keys = {one: start + one for one in names}
        return {one: leaf(key, features[key]) if key in features else node(tree(f"{key}/"))
                for one, key in keys.items()}

    top = tree("")
    steps = {"feature": top["steps"], "length": "-1"}
    return node(top | {"steps": {"pythonClassName": prefix + "dataset_feature.Dataset", "sequence": steps}})


def scene(dice: np.random.Generator, size_px: int) -> np.ndarray:
    """A picture with the detail of a photograph: noise at every scale, weaker where it is finer; uint8 [H, W, 3]."""
    total = np.zeros((size_px, size_px, 3), np.float32)
    cells = 4
    while cells <= size_px:
        noise = dice.normal(128 * (cells == 4), 90 / (cells / 4) ** 0.8, (3, cells, cells)).astype(np.float32)
        layers = [Image.fromarray(one).resize((size_px, size_px), Image.Resampling.BICUBIC) for one in noise]
        total += np.stack([np.asarray(layer) for layer in layers], -1)
        cells *= 2
    return np.clip(total, 0, 255).astype(np.uint8)


def film(dice: np.random.Generator, frames: int, size_px: int, form: str = "JPEG", **options: Any) -> list[bytes]:
    """Encoded frames of an object that crosses a scene, with the noise of a sensor."""
    background, thing = scene(dice, size_px), scene(dice, size_px // 4)
    images = []
    for t in range(frames):
        image = background.astype(np.int16)
        at = (size_px - len(thing)) * t // max(frames - 1, 1)
        image[at : at + len(thing), at : at + len(thing)] = thing
        image += dice.integers(-3, 4, image.shape, np.int16)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(buffer, form, **options)
        images.append(buffer.getvalue())
    return images

"""Decodes the flat Examples of RLDS, as the dataset's `features.json` describes them.

TFDS writes nested features under keys joined with `/`. What lies in one sequence (or in `steps`, a dataset) is stored
one behind the other. In two or more sequences it is ragged: `<key>/ragged_flat_values`, and row lengths from the
outside, `<key>/ragged_row_lengths_0` and so on. A tensor may be stored as bytes, plain or ZLIB-compressed; if more
than one of its dimensions is unknown, `<key>/value` holds the bytes and `<key>/shape` the shape.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from whale.data_prep.example import Example
from whale.errors import UserError

MAX_INFLATED_BYTES = 1 << 30
"""Most that the ZLIB-compressed values of one feature of an episode may become."""
INTEGERS = [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
DTYPES = {name: np.dtype(name) for name in ["bool", "float16", "float32", "float64", *INTEGERS]} | {
    "string": np.dtype(object)
}
TENSORS = {"Tensor": "tensor", "Scalar": "tensor", "BBoxFeature": "boundingBox", "Audio": "audio"}
"""Feature classes that are arrays, and where `features.json` describes them."""

Shape: TypeAlias = tuple[int | None, ...]
"""None stands for a dimension that differs from value to value."""


@dataclass(frozen=True)
class Leaf:
    """A feature without features inside."""

    key: str
    """Its name in the Example."""
    lengths: Shape
    """Of the sequences that it lies in, from the outside; a feature of the steps lies in one at least."""
    shape: Shape = ()
    """Of one value."""
    dtype: np.dtype = DTYPES["string"]
    encoding: str = "none"
    """Or `bytes`, or `zlib`."""
    is_image: bool = False
    optional: bool = False

    @property
    def stored_shape(self) -> Shape:
        """Of all values together, in the one list that holds them."""
        return (*self.lengths, *self.shape) if len(self.lengths) < 2 else (None, *self.shape)


Tree: TypeAlias = dict[str, Any]
"""Leaves, nested by name."""


def read_tree(description: dict[str, Any], where: str) -> Tree:
    """What `features.json` describes.

    Raises:
        UserError: it cannot be understood, or names a feature that only tensorflow-datasets can read.
    """
    try:
        return cast(Tree, _tree(description, "", ()))
    except NotImplementedError as error:
        remedy = "read it with tensorflow-datasets: `reader=tfds`"
        raise UserError(f"{where} has a feature that this reader does not know: {error}", remedy) from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{where} cannot be understood: {error!r}", "fetch the dataset again") from None


def _tree(spec: dict[str, Any], key: str, lengths: Shape) -> Tree | Leaf:
    package, _, name = spec["pythonClassName"].rpartition(".")
    if package.startswith("tensorflow_datasets."):
        if name in ("FeaturesDict", "Translation"):
            text = {"pythonClassName": f"{package}.Text"}
            inside = (spec["featuresDict"].get("features", {}) if name == "FeaturesDict"
                      else dict.fromkeys(spec["translation"]["languages"], text))
            return {one: _tree(inside[one], f"{key}/{one}" if key else one, lengths) for one in inside}
        if name in ("Sequence", "Dataset"):
            length = int(spec["sequence"].get("length", 0))
            return _tree(spec["sequence"]["feature"], key, (*lengths, None if length == -1 else length))
        if name == "TranslationVariableLanguages":
            return {one: Leaf(f"{key}/{one}", (*lengths, None)) for one in ("language", "translation")}
        if leaf := _leaf(name, spec, key, lengths):
            return leaf
    raise NotImplementedError(f"{key} ({spec['pythonClassName']})")


def _leaf(name: str, spec: dict[str, Any], key: str, lengths: Shape) -> Leaf | None:
    """None where the feature is not known."""
    if name == "Text":
        return Leaf(key, lengths)
    if name == "ClassLabel":
        return Leaf(key, lengths, (), DTYPES["int64"])
    if name in ("Image", "LabeledImage"):
        return Leaf(key, lengths, is_image=True)
    if name == "Video":
        return Leaf(key, (*lengths, _shape(spec["video"])[0]), is_image=True)
    content = spec[TENSORS[name]] if name in TENSORS else {}
    if content.get("lazyDecode") or content.get("dtype") not in DTYPES:
        return None
    shape, dtype = _shape(content), DTYPES[content["dtype"]]
    leaf = Leaf(key, lengths, shape, dtype, content.get("encoding", "none").lower(), False, "optional" in content)
    is_plain = leaf.encoding == "none" and leaf.stored_shape.count(None) <= 1
    return leaf if is_plain or (leaf.encoding in ("bytes", "zlib") and dtype.kind != "O") else None


def _shape(content: dict[str, Any]) -> Shape:
    dimensions = [int(one) for one in content["shape"].get("dimensions", [])]
    return tuple(None if one == -1 else one for one in dimensions)


def decode(tree: Tree | Leaf, example: Example) -> Any:
    """The values of a record, nested as the tree.

    Arrays of the feature's dtype (strings: objects that are bytes) with a leading axis for every sequence; images are
    lists of encoded bytes. Where lengths or shapes differ, a list of arrays stands in for that axis. What lies in no
    sequence is a scalar, bytes or an array.

    Raises:
        ValueError: a feature is missing, or its values do not fit its description.
    """
    if isinstance(tree, dict):
        return {name: decode(inside, example) for name, inside in tree.items()}
    try:
        return _values(tree, example)
    except (ValueError, zlib.error) as error:
        raise ValueError(str(error) if tree.key in str(error) else f"{tree.key}: {error}") from None


def _values(leaf: Leaf, example: Example) -> Any:
    key = f"{leaf.key}/value" if leaf.shape.count(None) > 1 else leaf.key
    if leaf.optional and not leaf.lengths and key not in example.spans:  # TFDS then gives the least value there is
        least = {"O": b"", "b": False, "f": np.finfo}.get(leaf.dtype.kind, np.iinfo)
        return np.full(leaf.shape, least(leaf.dtype).min if callable(least) else least, leaf.dtype)[()]  # type: ignore
    in_rows = len(leaf.lengths) > 1
    flat_key = f"{key}/ragged_flat_values" if in_rows else key
    if leaf.encoding == "none":
        values = _plain(leaf, example, flat_key)
    else:
        shapes = None
        if key != leaf.key:
            shapes = example.integers(f"{leaf.key}/shape/ragged_flat_values" if in_rows else f"{leaf.key}/shape")
        values = _decoded(leaf, example.strings(flat_key), shapes)
    for i in reversed(range(1, len(leaf.lengths))):
        values = _rows(values, example.integers(f"{key}/ragged_row_lengths_{i - 1}"), leaf.lengths[i])
    if leaf.lengths and leaf.lengths[0] not in (None, len(values)):
        raise ValueError(f"{len(values)} values in a sequence of {leaf.lengths[0]}")
    return values


def _plain(leaf: Leaf, example: Example, key: str) -> Any:
    """All values of a feature, one behind the other; the value itself where it lies in no sequence."""
    if leaf.is_image:
        images = example.strings(key)
        return images if leaf.lengths else _only(images)
    if leaf.dtype.kind == "O":
        stored: np.ndarray = np.array(example.strings(key), object)
    else:
        stored = example.floats(key) if leaf.dtype.kind == "f" else example.integers(key)
    return stored.reshape([-1 if one is None else one for one in leaf.stored_shape]).astype(leaf.dtype)[()]


def _decoded(leaf: Leaf, values: Sequence[bytes], shapes: np.ndarray | None) -> Any:
    """Tensors that are stored as bytes; `shapes` int64 [values * dimensions] where each has its own."""
    own = [leaf.shape] * len(values) if shapes is None else shapes.reshape(-1, len(leaf.shape)).tolist()
    arrays, left = [], MAX_INFLATED_BYTES
    for value, shape in zip(values, own, strict=True):
        if any(one not in (None, size) or (size or 0) < 0 for one, size in zip(leaf.shape, shape, strict=True)):
            raise ValueError(f"the shape {shape} does not fit {leaf.shape}")
        if leaf.encoding == "zlib":
            known = None not in shape
            value = _inflated(value, min(left, math.prod(shape) * leaf.dtype.itemsize) if known else left)
            left -= len(value)
        arrays.append(np.frombuffer(value, leaf.dtype).reshape([-1 if one is None else one for one in shape]))
    if not leaf.lengths:
        return _only(arrays).copy()[()]
    if not arrays:
        return np.empty((0, *(one or 0 for one in leaf.shape)), leaf.dtype)
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays


def _only(values: Sequence[Any]) -> Any:
    if len(values) != 1:
        raise ValueError(f"{len(values)} values where there should be one")
    return values[0]


def _inflated(value: bytes, limit: int) -> bytes:
    inflater = zlib.decompressobj()
    data = inflater.decompress(value, limit + 1)  # 0 would mean no limit
    if len(data) > limit or not inflater.eof:
        raise ValueError("compressed bytes that are cut off, or of another size than they should have")
    return data


def _rows(values: Any, lengths: np.ndarray, wanted: int | None) -> Any:
    """Values one behind the other as rows of these lengths: an array where all are equally long."""
    count = len(values)
    if ((lengths < 0) | (lengths > count)).any() or int(lengths.sum()) != count:
        raise ValueError(f"the lengths of its rows do not add up to {count}")
    if wanted is not None and (lengths != wanted).any():
        raise ValueError(f"a row is not of {wanted} values")
    if isinstance(values, np.ndarray) and len(set(lengths.tolist())) == 1:
        return values.reshape(len(lengths), int(lengths[0]), *values.shape[1:])
    ends = np.cumsum(lengths).tolist()
    return [values[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


def check_steps(steps: Tree) -> int:
    """The number of steps; a ValueError unless all features of decoded steps have as many, and there are features."""
    counts = list(_counts(steps, "steps"))
    if not counts:
        raise ValueError("its steps have no features")
    for name, count in counts:
        if count != counts[0][1]:
            raise ValueError(f"{counts[0][0]} has {counts[0][1]} steps, {name} has {count}")
    return counts[0][1]


def _counts(values: Any, name: str) -> Iterator[tuple[str, int]]:
    if isinstance(values, dict):
        for one, inside in values.items():
            yield from _counts(inside, f"{name}/{one}")
    else:
        yield name, len(values)

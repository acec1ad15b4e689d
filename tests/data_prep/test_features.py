"""Every feature type is decoded to exactly what tensorflow-datasets gives."""

import contextlib
import io
import zlib

import numpy as np
import pytest
import tfds_oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from whale.data_prep import features as features_module
from whale.data_prep.example import Example
from whale.data_prep.features import DTYPES, check_steps, decode, read_tree
from whale.errors import UserError


def png(random, height=4, width=5):
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def numbers(random, shape, dtype):
    if dtype == "string":
        values = np.empty(shape, object)
        for index in np.ndindex(*shape):
            values[index] = random.bytes(random.integers(0, 200))
        return values
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if dtype.startswith("float"):
        return random.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    values = random.integers(info.min, info.max, shape, dtype, endpoint=True)
    return np.where(random.random(shape) < 0.5, values, values % 100).astype(dtype)


def value_of(description, random):
    """A random value of a feature, as its user would give it to tensorflow-datasets."""
    if isinstance(description, dict):
        return {name: value_of(inside, random) for name, inside in description.items()}
    name, inner, keywords = description
    if name in ("Sequence", "Dataset", "Video"):
        length = keywords.get("length", keywords.get("shape", [None])[0])
        inner = inner or ("Image", None, {})
        return [value_of(inner, random) for _ in range(random.integers(0, 4) if length is None else length)]
    if name in ("Tensor", "Scalar", "Audio"):
        shape = [random.integers(1, 4) if size is None else size for size in keywords.get("shape", ())]
        return numbers(random, tuple(shape), keywords["dtype"])[()]
    if name == "Text":
        return "".join(chr(code) for code in random.integers(32, 0x3000, random.integers(0, 20)))
    if name == "ClassLabel":
        return int(random.integers(-1, keywords["num_classes"]))
    if name == "BBoxFeature":
        return np.array([0.1, 0.2, 0.5, 0.9], np.float32)
    if name == "Translation":
        return {language: f"word {random.integers(100)}" for language in keywords["languages"]}
    if name == "TranslationVariableLanguages":
        return {language: f"word {random.integers(100)}" for language in ("de", "en")}
    assert name == "Image"
    return png(random)


sizes = st.integers(1, 3)
dtypes = st.sampled_from(sorted(DTYPES))
encodings = st.sampled_from(["none", "bytes", "zlib"])


@st.composite
def tensors(draw, within):
    """What tensorflow-datasets reads back itself: it has no uint32 in bytes, and no unknown dimensions in sequences."""
    dtype = draw(dtypes)
    encoding = "none" if dtype in ("string", "uint32") else draw(encodings)
    shape = draw(st.lists(sizes, max_size=3))
    unknown = 0 if within == "sequence" else 3 if encoding != "none" else 0 if within == "steps" else 1
    for at in draw(st.lists(st.integers(0, 2), max_size=unknown, unique=True)):
        if at < len(shape):
            shape[at] = None
    return "Tensor", None, {"shape": tuple(shape), "dtype": dtype, "encoding": encoding}


def leaves(within):
    languages = {"languages": ["de", "en"]}
    fixed = [
        ("Text", None, {}), ("ClassLabel", None, {"num_classes": 7}), ("BBoxFeature", None, {}),
        ("Image", None, {"shape": (4, 5, 3)}), ("Image", None, {"shape": (None, None, 3), "encoding_format": "png"}),
        ("Scalar", None, {"dtype": "bool"}), ("Scalar", None, {"dtype": "string"}),
        ("Audio", None, {"shape": (3,), "dtype": "int16"}), ("Translation", None, languages),
    ]  # fmt: skip
    if within == "nothing":
        fixed += [
            ("TranslationVariableLanguages", None, languages), ("Video", None, {"shape": (None, 4, 5, 3)}),
            ("Sequence", ("Scalar", None, {"dtype": "int32"}), {"length": 2}),
        ]  # fmt: skip
    return tensors(within) | st.sampled_from(fixed)


def features(within, depth=2):
    """Descriptions for `tfds_oracle.build`. (It does not read sequences of a fixed length within sequences.)"""
    if not depth:
        return leaves(within)
    sequences = st.tuples(st.just("Sequence"), features("sequence", depth - 1), st.just({}))
    inside = st.dictionaries(st.sampled_from("abc"), leaves(within), min_size=1, max_size=3)
    return leaves(within) | sequences | inside


@st.composite
def datasets(draw):
    step = draw(st.dictionaries(st.sampled_from(["action", "observation", "x", "y"]), features("steps"), min_size=1))
    length = {} if "Sequence" in str(step) else draw(st.fixed_dictionaries({}, optional={"length": sizes}))
    beside = st.dictionaries(st.sampled_from(["episode_metadata", "success", "id"]), features("nothing"), max_size=2)
    return {"steps": ("Dataset", step, length)} | draw(beside)


def nested(value):
    return [nested(one) for one in value] if isinstance(value, list | np.ndarray) else value


def innermost(value):
    return [one for part in value for one in innermost(part)] if isinstance(value, list) else [value]


def assert_same(ours, theirs, where):
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs), where
        for name in theirs:
            assert_same(ours[name], theirs[name], f"{where}/{name}")
    elif isinstance(theirs, list):  # ragged
        _, dtype, values = theirs
        assert nested(ours) == values, where
        found = {one.dtype for one in innermost(ours) if isinstance(one, np.ndarray)}
        assert dtype == "string" or found <= {np.dtype(dtype)}, where
    elif isinstance(ours, list):  # images
        assert ours == list(theirs), where
    else:
        assert type(ours) is type(theirs), where
        if not isinstance(theirs, bytes):
            assert ours.dtype == theirs.dtype, where
            assert ours.shape == theirs.shape or not len(ours) + len(theirs), where  # it forgets the shape of nothing
            exact = np.ndarray.tolist if ours.dtype == object else np.ndarray.tobytes
            assert exact(np.asarray(ours)) == exact(np.asarray(theirs)), where


def at_step(steps, step):
    return {k: at_step(v, step) for k, v in steps.items()} if isinstance(steps, dict) else steps[step]


def assert_same_episode(ours, theirs):
    check_steps(ours["steps"])
    for i, step in enumerate(theirs["steps"]):
        assert_same(at_step(ours["steps"], i), step, f"steps[{i}]")
    _, count = next(features_module._counts(ours["steps"], ""))
    assert count == len(theirs["steps"])
    for name in set(theirs) - {"steps"}:
        assert_same(ours[name], theirs[name], name)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(description=datasets(), seed=st.integers(0, 2**32 - 1))
def test_any_dataset_is_read_as_tensorflow_datasets_reads_it(oracle, description, seed):
    random = np.random.default_rng(seed)
    episodes = [value_of(description, random) for _ in range(2)]
    described, records, read = oracle(tfds_oracle.write_and_read, description, episodes)
    tree = read_tree(described, "features.json")
    for record, theirs in zip(records, read, strict=True):
        assert_same_episode(decode(tree, Example(record)), theirs)


TENSOR = "tensorflow_datasets.core.features.tensor_feature.Tensor"
DICT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"


def tensor(shape, dtype, **others):
    dimensions = {"dimensions": [str(-1 if one is None else one) for one in shape]}
    return {"pythonClassName": TENSOR, "tensor": {"shape": dimensions, "dtype": dtype, **others}}


def example(**values):
    """An Example with one unpacked list a feature."""
    def field(number, content):
        return bytes([number << 3 | 2]) + length(len(content)) + content

    def length(count):
        return bytes([count & 0x7F | 0x80, count >> 7 & 0x7F | 0x80, count >> 14])

    record = b""
    for name, one in values.items():
        if isinstance(one, list):
            content = field(1, b"".join(field(1, part) for part in one))
        else:
            content = field(2 if one.dtype == np.float32 else 3, field(1, one.tobytes()))
        record += field(1, field(1, name.encode()) + field(2, content))
    return Example(field(1, record))


def read(spec, **values):
    return decode(read_tree({"pythonClassName": DICT, "featuresDict": {"features": {"x": spec}}}, "here"),
                  example(**values))["x"]


@pytest.mark.parametrize("spec", [
    {"pythonClassName": "my.own.Feature", "tensor": {}},
    {"pythonClassName": "tensorflow_datasets.core.features.some.Novelty", "jsonFeature": {"json": "{}"}},
    {"pythonClassName": "tensorflow_datasets.core.features.audio_feature.Audio",
     "audio": {"shape": {"dimensions": ["-1"]}, "dtype": "int64", "lazyDecode": True}},
    tensor((2,), "complex64"), tensor((None, None), "float32"), tensor((2,), "int8", encoding="lzma"),
])  # fmt: skip
def test_an_unknown_feature_is_named_with_the_other_reader(spec):
    with pytest.raises(UserError) as error:
        read(spec)
    assert f"does not know: x ({spec['pythonClassName']})" in str(error.value) and "reader=tfds" in str(error.value)


@pytest.mark.parametrize("broken", [
    {}, {"pythonClassName": 3}, {"pythonClassName": TENSOR}, tensor((2,), "int8") | {"tensor": {"dtype": "int8"}},
    {"pythonClassName": DICT, "featuresDict": {"features": [5]}}, {"pythonClassName": TENSOR, "tensor": 7},
])  # fmt: skip
def test_a_description_that_makes_no_sense(broken):
    with pytest.raises(UserError, match="cannot be understood"):
        read(broken)


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.none() | st.integers() | st.text() | st.just(TENSOR) | st.just(DICT), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(["pythonClassName", "featuresDict", "features", "tensor",
    "shape", "dimensions", "dtype", "sequence", "feature", "length"]), inner, max_size=4), max_leaves=20))
def test_any_json_is_a_description_or_an_error_that_says_so(spec):
    with contextlib.suppress(UserError):
        read_tree({"pythonClassName": DICT, "featuresDict": {"features": {"x": spec}}}, "here")


def varint(values):
    return np.array(values, np.uint8)  # below 128 a varint is a byte


@pytest.mark.parametrize(("spec", "values", "reason"), [
    (tensor((2,), "float32"), {}, "lacks the feature x"),
    (tensor((2,), "float32"), {"x": np.zeros(3, np.float32)}, "x: cannot reshape"),
    (tensor((2,), "float32"), {"x": varint([1, 2])}, "x holds int64 values, not float"),
    (tensor((), "string"), {"x": [b"a", b"b"]}, "x: cannot reshape"),
    (tensor((2,), "int16", encoding="bytes"), {"x": [b"abc"]}, "x: buffer size"),
    (tensor((2,), "int16", encoding="bytes"), {"x": [b"abcd", b"abcd"]}, "x: 2 values where"),
    (tensor((2,), "int16", encoding="zlib"), {"x": [b"abcd"]}, "x: Error -3"),
    (tensor((2,), "int16", encoding="zlib"), {"x": [zlib.compress(bytes(4))[:-1]]}, "x: compressed bytes"),
    (tensor((2,), "int16", encoding="zlib"), {"x": [zlib.compress(bytes(1 << 24))]}, "x: compressed bytes"),
    (tensor((None, None), "int8", encoding="bytes"), {"x/value": [b"abcd"], "x/shape": varint([2, 3])}, "x: cannot"),
    (tensor((None, None, 3), "int8", encoding="bytes"), {"x/value": [b"a"], "x/shape": varint([1, 1, 1])}, "x: the"),
    (tensor((None, None), "int8", encoding="bytes"), {"x/value": [b"ab", b"ab"], "x/shape": varint([1, 2])}, "x: zip"),
])  # fmt: skip
def test_values_that_do_not_fit(spec, values, reason):
    with pytest.raises(ValueError, match=reason.replace("(", r"\(")):
        read(spec, **values)


def test_a_bomb_is_not_inflated(monkeypatch):
    monkeypatch.setattr(features_module, "MAX_INFLATED_BYTES", 1000)
    spec = tensor((None,), "uint8", encoding="zlib")
    assert read(spec, x=[zlib.compress(bytes(1000))]).shape == (1000,)
    with pytest.raises(ValueError, match="compressed bytes"):
        read(spec, x=[zlib.compress(bytes(1001))])


def test_an_optional_feature_that_is_missing_has_the_value_of_tfds(oracle):
    kinds = {"i": "int32", "f": "float32", "s": "string", "b": "bool"}
    description = {"steps": ("Dataset", {"x": ("Scalar", None, {"dtype": "bool"})}, {})} | {
        name: ("Tensor", None, {"shape": shape, "dtype": dtype, "optional": True})
        for shape in [(), (2,)] for name, dtype in {f"{key}{len(shape)}": one for key, one in kinds.items()}.items()
    }
    episode = dict.fromkeys(description) | {"steps": [{"x": True}]}
    described, [record], [theirs] = oracle(tfds_oracle.write_and_read, description, [episode])
    assert_same_episode(decode(read_tree(described, "here"), Example(record)), theirs)


def rows(spec):
    name = "tensorflow_datasets.core.features.sequence_feature.Sequence"
    for length in ("2", "-1"):
        spec = {"pythonClassName": name, "sequence": {"feature": spec, "length": length}}
    return spec


@pytest.mark.parametrize(("lengths", "count", "reason"), [
    ([2, 2], 4, None), ([2, 2], 5, "do not add up"), ([2], 4, "do not add up"), ([1, 3], 4, "a row is not of 2"),
    ([], 0, None),
])  # fmt: skip
def test_rows_add_up(lengths, count, reason):
    values = {"x/ragged_flat_values": varint(range(count)), "x/ragged_row_lengths_0": varint(lengths)}
    if reason:
        with pytest.raises(ValueError, match=reason):
            read(rows(tensor((), "int8")), **values)
    else:
        assert nested(read(rows(tensor((), "int8")), **values)) == np.arange(count).reshape(-1, 2).tolist()


def test_steps_of_different_lengths():
    check_steps({"a": np.zeros(3), "b": {"c": [b"", b"", b""], "d": {}}})
    with pytest.raises(ValueError, match=r"steps/a has 3 steps, steps/b/c has 2"):
        check_steps({"a": np.zeros(3), "b": {"c": [b"", b""]}})

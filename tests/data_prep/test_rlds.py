"""Whole RLDS datasets: our reader against tensorflow-datasets, at every kind of address, sound and damaged."""

import functools
import http.server
import io
import json
import pickle
import shutil
import struct
import subprocess
import sys
import threading

import fsspec
import numpy as np
import pytest
import rlds_files
import tfds_oracle
from PIL import Image

from whale.data_prep.images import decode_frames
from whale.data_prep.rlds_source import RldsSource
from whale.data_prep.source import Episode, InputShard, Unreadable, open_source
from whale.data_prep.tfrecord import masked_crc32c, read_records
from whale.errors import UserError

CAMERAS = ["image_0", "image_1", "image_2", "image_3"]
STEP = {
    "observation": {
        "wrist": ("Image", None, {"shape": (16, 24, 3), "encoding_format": "jpeg"}),
        "front": ("Image", None, {"shape": (16, 24, 3), "encoding_format": "png"}),
        "depth": ("Tensor", None, {"shape": (4, 6), "dtype": "uint16", "encoding": "zlib"}),
    },
    "action": ("Tensor", None, {"shape": (7,), "dtype": "float32"}),
    "language_instruction": ("Text", None, {}),
}
RLDS = {
    "steps": ("Dataset", STEP, {}),
    "success": ("Scalar", None, {"dtype": "bool"}),
    "episode_metadata": {"file_path": ("Text", None, {})},
}


def encoded(random, kind):
    buffer = io.BytesIO()
    coarse = Image.fromarray(random.integers(0, 256, (4, 6, 3), np.uint8))
    coarse.resize((24, 16), Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


def episode(random, number):
    steps = [{
        "observation": {"wrist": encoded(random, "JPEG"), "front": encoded(random, "PNG"),
                        "depth": random.integers(0, 9, (4, 6), np.uint16)},
        "action": random.normal(size=7).astype(np.float32), "language_instruction": f"do {number}",
    } for _ in range(random.integers(2, 6))]
    return {"steps": steps, "success": number % 2 == 0, "episode_metadata": {"file_path": f"demo/{number}"}}


@pytest.fixture(scope="module")
def dataset(oracle, tmp_path_factory):
    """Twelve episodes in three files."""
    folder = tmp_path_factory.mktemp("rlds") / "toy" / "1.0.0"
    random = np.random.default_rng(0)
    oracle(tfds_oracle.write_dataset, str(folder), "toy", RLDS, [episode(random, number) for number in range(12)], 3)
    return folder


@pytest.fixture
def copy(dataset, tmp_path):
    return shutil.copytree(dataset, tmp_path / "1.0.0")


def file_of(folder, number=1):
    return folder / f"toy-train.tfrecord-{number:05d}-of-00003"


def read_all(source, cameras=("wrist", "front")):
    return [one for shard in source.shards for one in source.read(shard, cameras)]


def same(ours, theirs):
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        return all(same(ours[name], theirs[name]) for name in theirs)
    if isinstance(ours, list):
        return ours == list(theirs)
    assert type(ours) is type(theirs)
    return np.array_equal(ours, theirs) and getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)


def at_step(steps, step):
    return {k: at_step(v, step) for k, v in steps.items()} if isinstance(steps, dict) else steps[step]


@pytest.mark.parametrize("split", ["train", "val"])
def test_bridge_is_read_as_tensorflow_datasets_reads_it(oracle, bridge, split):
    source = RldsSource(str(bridge))
    [shard] = [shard for shard in source.shards if shard.split == split]
    ours = list(source.read(shard, CAMERAS))
    theirs = oracle(tfds_oracle.read_folder, str(bridge), split)
    assert [one.record for one in ours] == list(range(25)) and len(theirs) == 25
    for one, their in zip(ours, theirs, strict=True):
        assert same(one.metadata, their["episode_metadata"])
        assert len(their["steps"]) == 10 == len(one.steps["action"])
        assert all(same(at_step(one.steps, step), values) for step, values in enumerate(their["steps"]))


def test_pixels_differ_by_no_more_than_the_decoders_do(oracle, bridge):
    source = RldsSource(str(bridge))
    theirs = oracle(tfds_oracle.pixels, str(bridge), "train", "image_0")
    for one, (fast, accurate) in zip(source.read(source.shards[0], ["image_0"]), theirs, strict=True):
        ours = decode_frames(one.steps["observation"]["image_0"], range(10), None)
        assert np.array_equal(ours, accurate)
        difference = np.abs(ours.astype(int) - fast)
        assert difference.max() <= 20 and difference.mean() < 3  # TensorFlow's default is a faster DCT, less accurate


@pytest.mark.parametrize("cameras", [["front", "wrist"], []])
def test_both_readers_give_the_same(oracle, dataset, cameras):
    ours = read_all(open_source(str(dataset)), cameras)
    theirs = oracle(tfds_oracle.tfds_source, str(dataset), cameras)
    assert len(ours) == len(theirs) == 12
    for one, (record, steps, metadata) in zip(ours, theirs, strict=True):
        assert one.record == record and same(one.steps, steps) and same(one.metadata, metadata)
        assert set(one.steps["observation"]) == {"depth", *cameras}
    assert ours[0].metadata == {"success": True, "file_path": b"demo/0"}


def test_the_files_are_those_that_the_description_names(dataset):
    source = open_source(str(dataset))
    sizes = [file_of(dataset, number).stat().st_size for number in range(3)]
    assert source.dataset == "toy"
    assert source.shards == tuple(
        InputShard(number, str(file_of(dataset, number)), "train", 4 * number, 4, sizes[number]) for number in range(3)
    )
    assert [shard.name for shard in pickle.loads(pickle.dumps(source)).shards] == [
        file_of(dataset, number).name for number in range(3)
    ]


def test_files_that_are_named_otherwise(copy):
    info = json.loads((copy / "dataset_info.json").read_text())
    info["splits"][0]["filepathTemplate"] = "{SPLIT}_{SHARD_INDEX}_{NUM_SHARDS}.{FILEFORMAT}"
    info["splits"].append({"name": "empty"})
    (copy / "dataset_info.json").write_text(json.dumps(info))
    for number in range(3):
        file_of(copy, number).rename(copy / f"train_{number:05d}_00003.tfrecord")
    assert len(read_all(open_source(str(copy)))) == 12


def test_train_comes_first(bridge):
    assert [shard.split for shard in open_source(str(bridge)).shards] == ["train", "val"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def served(dataset):
    """The dataset on a web server of this machine."""
    handler = functools.partial(Quiet, directory=str(dataset.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/1.0.0"
        server.shutdown()


@pytest.fixture
def in_memory(dataset):
    files = fsspec.filesystem("memory")
    files.put(str(dataset), "/data/toy/1.0.0", recursive=True)
    yield "memory://data/toy/1.0.0"
    files.rm("/data", recursive=True)


@pytest.mark.parametrize("where", ["served", "in_memory"])
def test_a_dataset_at_an_address(request, dataset, where):
    address = request.getfixturevalue(where)
    source = open_source(address)
    assert [shard.num_bytes for shard in source.shards] == [file_of(dataset, i).stat().st_size for i in range(3)]
    for ours, local in zip(read_all(source), read_all(open_source(str(dataset))), strict=True):
        assert same(ours.steps, local.steps) and same(ours.metadata, local.metadata)


def test_reading_loads_no_tensorflow(dataset):
    script = (
        "import sys\nfrom whale.data_prep.source import open_source\nsource = open_source(sys.argv[1])\n"
        "print(sum(len(list(source.read(shard, ['wrist']))) for shard in source.shards))\n"
        "assert not {'tensorflow', 'tensorflow_datasets', 'torch', 'google.protobuf'} & set(sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, dataset], capture_output=True, check=True).stdout == b"12\n"


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_damaged_record_is_passed_over(copy):
    flip(file_of(copy), file_of(copy).stat().st_size // 2)
    found = read_all(open_source(str(copy)))
    [lost] = [one for one in found if isinstance(one, Unreadable)]
    assert len(found) == 12 and lost.num_records == 1 and "checksum" in lost.reason
    assert sum(isinstance(one, Episode) for one in found) == 11


def framed(record):
    size = struct.pack("<Q", len(record))
    return size + struct.pack("<I", masked_crc32c(size)) + record + struct.pack("<I", masked_crc32c(record))


def rewrite(path, number, change):
    """Replace a record, with sound checksums."""
    with path.open("r+b") as file:
        records = [one.data for one in read_records(str(path), 4)]
        records[number] = change(records[number])
        file.truncate()
        for one in records:
            file.write(framed(one))


@pytest.mark.parametrize(("change", "reason"), [
    (lambda record: record[:-5], "a field reaches beyond"),
    (lambda record: record.replace(b"steps/action", b"steps/option"), "it lacks the feature steps/action"),
    (lambda record: b"", "it lacks the feature "),
])  # fmt: skip
def test_a_record_that_is_no_episode(copy, change, reason):
    rewrite(file_of(copy), 2, change)
    found = read_all(open_source(str(copy)))
    [lost] = [one for one in found if isinstance(one, Unreadable)]
    assert (lost.record, lost.num_records, len(found)) == (2, 1, 12) and reason in lost.reason and lost.offset > 0


def test_steps_that_do_not_agree(copy):
    def without_an_image(record):
        at = record.index(b"\x89PNG", record.index(b"steps/observation/front"))
        first = record.rindex(b"\x0a", 0, at)  # the first image becomes an unknown field
        return record[:first] + b"\x12" + record[first + 1 :]

    rewrite(file_of(copy), 0, without_an_image)
    [lost] = [one for one in read_all(open_source(str(copy))) if isinstance(one, Unreadable)]
    assert "steps/observation/front" in lost.reason and "steps" in lost.reason


def test_any_change_of_a_record_gives_episodes_or_reasons(copy):
    """Nothing but these two comes out, however sound the checksums are."""
    random = np.random.default_rng(0)
    path, source = file_of(copy), open_source(str(copy))
    [record, *_] = [one.data for one in read_records(str(path), 4)]
    reasons = set()
    for _ in range(1000):
        changed = bytearray(record)
        for at in random.integers(0, len(record), random.integers(1, 5)):
            changed[at] = random.integers(256)
        path.write_bytes(framed(bytes(changed)))
        found, missing = source.read(source.shards[1], ["wrist"])
        assert missing.num_records == 3
        reasons.add(type(found))
    assert reasons == {Episode, Unreadable}


def refused(folder, **settings):
    with pytest.raises(UserError) as error:
        open_source(str(folder), **settings)
    return str(error.value)


@pytest.mark.parametrize("reader", ["tfrecord", "tfds"])
def test_what_is_no_rlds_dataset(copy, reader):
    assert "no dataset folder" in refused(copy / "nowhere", reader=reader)
    assert f"such as {copy}" in refused(copy.parent, reader=reader)
    file_of(copy, 2).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3475142\n")
    assert f"{file_of(copy, 2)} is a Git-LFS pointer" in refused(copy, reader=reader)
    file_of(copy, 2).unlink()
    assert f"{file_of(copy, 2)} is missing" in refused(copy, reader=reader)
    (copy / "dataset_info.json").write_text('{"name": "toy", "splits": [{"shardLengths": ["many"]}]}')
    assert "cannot be understood" in refused(copy, reader=reader)
    (copy / "dataset_info.json").write_text('{"name": "toy", "fileFormat": "riegeli"}')
    assert "holds riegeli files" in refused(copy, reader=reader)
    (copy / "dataset_info.json").write_text('{"name": "toy"}')
    assert "names no files" in refused(copy, reader=reader)
    (copy / "features.json").write_text("[" * 100_000)
    assert "not valid JSON" in refused(copy, reader=reader)


@pytest.mark.parametrize("reader", ["tfrecord", "tfds"])
def test_an_unknown_camera(dataset, reader, oracle):
    if reader == "tfrecord":
        source = open_source(str(dataset))
        with pytest.raises(UserError, match=r"(?s)no camera 'depth'.*choose one of: (wrist, front|front, wrist)"):
            next(source.read(source.shards[0], ["depth"]))
    else:
        with pytest.raises(UserError, match=r"(?s)no camera 'depth'.*choose one of: (wrist, front|front, wrist)"):
            oracle(tfds_oracle.tfds_source, str(dataset), ["depth"])


def test_depth_is_left_out_and_flags_that_are_not_told_follow_from_the_length(tmp_path):
    """A feature of more than 4096 numbers a step is neither decoded nor in the way; state of 4096 numbers stays."""
    depth, state = np.zeros((3, 80, 60), np.float32), np.arange(3 * 4096, dtype=np.float32).reshape(3, 4096)
    one = rlds_files.episode("a", [b"x"] * 3, np.zeros((3, 7)), **{
        "steps/observation/depth": depth, "steps/observation/state": state})
    for flag in ("is_first", "is_last", "is_terminal"):
        del one[f"steps/{flag}"]
    source = open_source(str(rlds_files.write(tmp_path / "1.0.0", [[one]])))
    (found,) = source.read(source.shards[0], ["image"])
    assert found.steps["observation"].keys() == {"image", "state"}
    assert np.array_equal(found.steps["observation"]["state"], state)
    told = {name: found.steps[name].tolist() for name in ("is_first", "is_last", "is_terminal")}
    assert told == {"is_first": [1, 0, 0], "is_last": [0, 0, 1], "is_terminal": [0, 0, 0]}

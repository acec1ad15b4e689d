"""Every damage is found, and named: bit flips and cuts anywhere in a folder, archives made to do harm."""

import hashlib
import json
import os
import random
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from whale.actions import ActionStatus
from whale.clips.clip import ActionType, Clip, ClipInfo, Source
from whale.clips.codec import END_OF_TAR, _tar_header, encode, to_tar
from whale.clips.index import HEADER_BYTES, INDEX_DTYPE, index_path, read_index
from whale.clips.manifest import UnitRecord, hash_of, read_manifest, write_manifest, write_record
from whale.clips.reader import ClipReader
from whale.clips.stats import write_stats
from whale.clips.writer import ShardWriter
from whale.data_prep.config import VerifyConfig
from whale.data_prep.verify import verify
from whale.errors import UserError


@pytest.fixture(scope="session")
def make_small():
    """A clip of three frames."""

    def make(seed: int, kind: str, split: str) -> Clip:
        rng, steps = np.random.default_rng(seed), 3
        info = ClipInfo(
            dataset="toy", episode=f"episode-{seed}", start=0, split=split, camera="image", view="external",
            control_period_sec=0.2, action_type=ActionType.EEF_DELTA, action_status=(ActionStatus.ACTUATED,) * 7,
            instruction="püsh", success=None, source=Source("toy", seed), tokenizer="abc" if kind == "tokens" else None,
        )  # fmt: skip
        return Clip(
            info=info, frames=rng.integers(0, 256, (steps, 4, 4, 3), np.uint8) if kind == "pixels" else None,
            tokens=rng.integers(0, 500, (steps, 4)).astype(np.uint16) if kind == "tokens" else None,
            actions=rng.normal(scale=1e-5, size=(steps, 7)).astype(np.float32), action_known=np.arange(steps) < 2,
            rewards=rng.random(steps).astype(np.float32), proprio=None, is_first=np.arange(steps) == 0,
            is_last=np.arange(steps) == 2, is_terminal=np.zeros(steps, bool),
        )  # fmt: skip

    return make


@pytest.fixture(scope="module", params=["pixels", "tokens"])
def whole(request, tmp_path_factory, make_small) -> Path:
    """A small folder: two train shards and one val shard."""
    folder = tmp_path_factory.mktemp("verify") / request.param
    with ShardWriter(folder, 0, max_clips=2) as writer:
        for seed in range(4):
            writer.write(make_small(seed, request.param, "val" if seed == 3 else "train"))
    write_record(folder, UnitRecord(0, "input", "settings", writer.shards, {"bläck": 1}))
    write_stats(folder, write_manifest(folder, "toy", "abc" if request.param == "tokens" else None, 1))
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "folder")


def complaint(folder: Path, workers: int = 1) -> str:
    with pytest.raises(UserError) as error:
        verify(VerifyConfig(clips=folder, workers=workers))
    return str(error.value)


def checked_files(folder: Path) -> list[Path]:
    shards = [folder / shard.name for shard in read_manifest(folder).shards]
    return [*shards, *map(index_path, shards), folder / "manifest.json", folder / "stats.json"]


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def try_flips(folder: Path, count: int, seed: int) -> None:
    """Flip random bits one by one; each must be found, and where it lies in a clip that clip must be named."""
    rng, paths = random.Random(seed), checked_files(folder)
    for _ in range(count):
        path = rng.choice(paths)
        bit = rng.randrange(8 * path.stat().st_size)
        rows = {file: read_index(file) for file in paths if file.suffix == ".tar"}
        flip(path, bit)
        said = complaint(folder)
        flip(path, bit)
        assert path.name in said
        if path in rows and (hit := [row for row in rows[path] if 0 <= bit // 8 - int(row["offset"]) < row["length"]]):
            assert f"{path.name}: clip {int(hit[0]['key']):011d} at byte {hit[0]['offset']}: " in said
        if path.name.endswith(".idx.npy") and bit // 8 >= HEADER_BYTES:
            row = (bit // 8 - HEADER_BYTES) // INDEX_DTYPE.itemsize
            assert f"row at byte {HEADER_BYTES + row * INDEX_DTYPE.itemsize}" in said


def test_a_sound_folder_is_said_to_be(folder, capsys):
    for workers in (1, 2):
        verify(VerifyConfig(clips=folder, workers=workers))
        assert "3 shards, 4 clips, all as written" in capsys.readouterr().out


def test_some_hundred_random_bit_flips_are_all_found_and_named(folder):
    try_flips(folder, 200, seed=1)
    verify(VerifyConfig(clips=folder))


@pytest.mark.slow
def test_ten_thousand_random_bit_flips_are_all_found_and_named(folder):
    try_flips(folder, 5000, seed=2)  # of pixels, and as many of tokens


def test_bits_all_over_an_index_and_the_texts_count(folder):
    paths = checked_files(folder)
    for path in (paths[3], *paths[-2:]):
        for bit in range(0, 8 * path.stat().st_size, 67):
            flip(path, bit)
            assert path.name in complaint(folder)
            flip(path, bit)


def test_every_cut_is_found(folder):
    paths = checked_files(folder)
    for path in paths:
        content = path.read_bytes()
        step = max(1, len(content) // 40)
        for end in {0, 1, *range(0, len(content), step), len(content) - 1}:
            path.write_bytes(content[:end])
            assert path.name in complaint(folder)
        path.write_bytes(content + b"\0")
        assert path.name in complaint(folder)
        path.unlink()
        assert path.name in complaint(folder)
        path.write_bytes(content)
    verify(VerifyConfig(clips=folder))


@pytest.mark.slow
def test_every_single_cut_of_a_small_shard_is_found_with_the_clip(folder):
    path = checked_files(folder)[0]
    rows, content = read_index(path), path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        said = complaint(folder)
        assert f"{path.name} has {end} bytes, the manifest says {len(content)}" in said
        for row in rows[rows["offset"] + rows["length"] > end]:
            assert f"{path.name}: clip {int(row['key']):011d} at byte {row['offset']}: " in said


def test_damage_in_several_shards_is_told_at_once_by_any_number_of_workers(folder):
    paths = checked_files(folder)
    flip(paths[0], 5)
    flip(paths[2], 999)
    said = complaint(folder, workers=2)
    assert said == complaint(folder, workers=1)
    assert "damaged in 2 place(s)" in said and paths[0].name in said and paths[2].name in said


def make_consistent(folder: Path, shard: Path, content: bytes, rows: np.ndarray | None = None) -> None:
    """What somebody would do who wants a folder to pass: all hashes and sizes are those of the new content."""
    shard.write_bytes(content)
    if rows is not None:
        index_path(shard).write_bytes(index_path(shard).read_bytes()[:HEADER_BYTES] + rows.tobytes())
    values = json.loads((folder / "manifest.json").read_text())
    for entry in values["shards"]:
        if entry["name"] == shard.name:
            entry["sha256"], entry["num_bytes"] = hashlib.sha256(content).hexdigest(), len(content)
            entry["index_sha256"] = hashlib.sha256(index_path(shard).read_bytes()).hexdigest()
    facts = {key: value for key, value in values.items() if key not in ("hash", "splits")}
    text = json.dumps(values | {"hash": hash_of(facts)}, indent=1, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text)


def entry_of(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> bytes:
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname = size, kind, target
    return header.tobuf(tarfile.GNU_FORMAT)


def base256(header: bytes, size: int) -> bytes:
    """The header with a size in the binary notation, which may be negative or huge."""
    field = (size if size >= 0 else 256**12 + size).to_bytes(12, "big")
    raw = bytearray(header[:124] + bytes([field[0] | 0x80]) + field[1:] + header[136:])
    raw[148:156] = b"        "
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


PLAIN = entry_of("00000000000.json")
HOSTILE = {
    "a symbolic link": entry_of("00000000000.json", kind=tarfile.SYMTYPE, target="/etc/passwd"),
    "a hard link": entry_of("00000000000.json", kind=tarfile.LNKTYPE, target="../../secret"),
    "a path upwards": entry_of("../../00000000000.json"),
    "an absolute path": entry_of("/tmp/00000000000.json"),
    "a folder": entry_of("00000000000.json", kind=tarfile.DIRTYPE),
    "a pipe": entry_of("00000000000.json", kind=tarfile.FIFOTYPE),
    "a device": entry_of("00000000000.json", kind=tarfile.CHRTYPE),
    "a sparse file": entry_of("00000000000.json", kind=tarfile.GNUTYPE_SPARSE),
    "a pax header": entry_of("00000000000.json", size=512, kind=tarfile.XHDTYPE) + b"16 path=/etc/ab\n".ljust(512),
    "a long name": entry_of("././@LongLink", size=512, kind=tarfile.GNUTYPE_LONGNAME) + b"/etc/x".ljust(512, b"\0"),
    "a huge size": base256(PLAIN, 2**80),
    "a size of less than nothing": base256(PLAIN, -1024),
    "the largest size there is": entry_of("00000000000.json", size=8**11 - 1),
    "another member": entry_of("00000000000.sh"),
    "no header": bytes(512),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_an_archive_made_to_do_harm_is_named_and_does_none(folder, what):
    """With every hash made to fit, so that only its structure can give it away."""
    shard = checked_files(folder)[0]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    content, rows = shard.read_bytes(), read_index(shard).copy()
    rows["length"][0] += len(HOSTILE[what])
    rows["offset"][1:] += len(HOSTILE[what])
    make_consistent(folder, shard, HOSTILE[what] + content, rows)
    said = complaint(folder)
    assert f"{shard.name}: clip 00000000000 at byte 0: at its byte 0 is no entry of a clip" in said or (
        f"{shard.name}: clip 00000000000 at byte 0: its member json is cut off" in said
    )
    with pytest.raises(UserError, match="is damaged"):
        ClipReader(folder, "train").read(0)
    assert {path for path in folder.rglob("*") if path.is_file()} == set(before)
    assert not os.path.lexists(folder.parent / "00000000000.json")


def npy_of(description: str, shape: str) -> bytes:
    text = f"{{'descr': {description}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)


BAD_MEMBERS = {
    "an object array": ("actions.npy", npy_of("'|O'", "(8,)")),
    "a terabyte": ("actions.npy", npy_of("'<f4'", "(262144, 1048576)")),
    "more than there are numbers for": ("flags.npy", npy_of("'|b1'", "(99999999999, 99999999999)")),
    "a negative shape": ("flags.npy", npy_of("'|b1'", "(-8, -8)")),
    "code in a header": ("actions.npy", npy_of("__import__('os').system('touch harm')", "(8,)")),
    "another shape": ("actions.npy", npy_of("'<f4'", "(16,)")),
    "no array": ("actions.npy", b"print('hello')"),
    "deep JSON": ("json", b"[" * 100_000),
    "JSON of something else": ("json", b"{}"),
    "JSON with wrong types": ("json", b'{"format_version": 2, "num_frames": 3, "action_type": 4, "source": 1}'),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_MEMBERS)
def test_members_made_to_do_harm_are_named(folder, make_small, what):
    shard = checked_files(folder)[0]
    rows, content = read_index(shard).copy(), shard.read_bytes()
    name, bad = BAD_MEMBERS[what]
    raw = to_tar("00000000000", encode(make_small(0, read_manifest(folder).kind, "train")) | {name: bad})
    rest = content[int(rows["length"][0]) :]
    rows["offset"][1:] = len(raw)
    rows["length"][0] = len(raw)
    make_consistent(folder, shard, raw + rest, rows)
    assert f"{shard.name}: clip 00000000000 at byte 0: no clip: " in complaint(folder)


def test_clips_that_say_something_else_than_their_folder(folder, make_small):
    shard = checked_files(folder)[0]
    kind = read_manifest(folder).kind
    clip = make_small(0, kind, "train")
    others = [replace(clip, info=replace(clip.info, **change)) for change in ({"split": "val"}, {"dataset": "tox"})]
    others.append(make_small(0, "tokens" if kind == "pixels" else "pixels", "train"))
    for other in others:
        with ShardWriter(folder.parent / "other", 0) as writer:
            writer.write(replace(other, info=replace(other.info, split="train")) if other is not others[0] else other)
        made = next((folder.parent / "other").glob("*.tar"))
        raw = made.read_bytes()[: -len(END_OF_TAR)]
        rows = np.concatenate([read_index(made), read_index(shard)[1:]])
        rest = shard.read_bytes()[int(read_index(shard)["length"][0]) :]
        rows["offset"][1:] = len(raw)
        make_consistent(folder, shard, raw + rest, rows)
        assert f"{shard.name}: clip 00000000000 at byte 0: dataset, split and tokenizer are" in complaint(folder)
        shutil.rmtree(folder.parent / "other")


def test_our_headers_are_those_of_the_tar_module():
    for name, size in (("00000000001.json", 0), ("99999999999.frames.png", 8**11 - 1), ("12345678901.flags.npy", 192)):
        header = tarfile.TarInfo(name)
        header.size = size
        assert _tar_header(name, size) == header.tobuf(tarfile.USTAR_FORMAT)
    with pytest.raises(ValueError, match="does not fit a tar"):
        _tar_header("00000000001.json", 8**11)

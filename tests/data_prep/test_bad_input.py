"""Every bad input is one short error that names the file and the remedy, with exit code 2 and no clips written."""

import json
import shutil

import pytest

from whale.clips.manifest import read_manifest


@pytest.fixture
def refused(whale, tmp_path):
    def run(source, noted=(), **settings):
        ran = whale("convert", **{"source": source, "out": tmp_path / "out", "camera": "image", **settings})
        assert ran.code == 2
        assert "remedy: " in ran.err and "Traceback" not in ran.err and len(ran.err.splitlines()) < 12
        left = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert left <= set(noted)
        return ran.err

    return run


@pytest.fixture
def copy(rlds, tmp_path):
    return shutil.copytree(rlds, tmp_path / "tabletop" / "1.0.0")


def shard_of(folder, number):
    return folder / f"tabletop-train.tfrecord-{number:05d}-of-00003"


def test_a_missing_folder(refused, tmp_path):
    assert f"no dataset folder {tmp_path / 'nowhere'}" in refused(tmp_path / "nowhere")


def test_a_folder_above_the_version_is_answered_with_the_version(refused, rlds):
    assert f"such as {rlds}" in refused(rlds.parent)


def test_bare_records_without_a_description(refused, copy):
    (copy / "features.json").unlink()
    assert "no features.json" in refused(copy)


@pytest.mark.parametrize("name", ["tabletop-train.tfrecord-00001-of-00003", "features.json"])
def test_a_git_lfs_pointer(refused, copy, name):
    (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3475142\n")
    error = refused(copy)
    assert f"{copy / name} is a Git-LFS pointer" in error and "git lfs pull" in error


def test_a_flat_dataset(refused, copy):
    features = json.loads((copy / "features.json").read_text())
    inner = features["featuresDict"]["features"]
    features["featuresDict"]["features"] = {"image": inner["episode_metadata"], "label": inner["episode_metadata"]}
    (copy / "features.json").write_text(json.dumps(features))
    error = refused(copy)
    assert "flat dataset, not RLDS" in error and "(image, label)" in error


def test_a_missing_shard(refused, copy):
    shard_of(copy, 2).unlink()
    assert f"{shard_of(copy, 2)} is missing" in refused(copy)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_cannot_be_read_is_quarantined_and_converted_once_it_is_fetched(whale, convert, copy, clips, bytes_of,
                                                                             tmp_path, workers):
    out = tmp_path / "out"
    shard = shard_of(copy, 1)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1000])
    settings = {"source": copy, "out": out, "camera": "image", "val_fraction": 0.3, "workers": workers}
    for _ in range(2):
        ran = whale("convert", **settings)
        assert ran.code == 1, ran.err
        assert "skipped: 1 unreadable" in ran.out and f"{shard.name} record 7: unreadable: " in ran.out
        assert "1 episodes cannot be read" in ran.out and "remove split.json and records/00001.json" in ran.out
    left_out = json.loads((out / "quarantine.json").read_text())["episodes"]
    assert [(one["file"], one["record"], one["num_records"]) for one in left_out] == [(shard.name, 7, 1)]
    assert 0 < left_out[0]["offset"] < len(whole) and read_manifest(out).skipped == {"unreadable": 1}
    convert(out, source=copy, max_unreadable=1)
    shard.write_bytes(whole)
    for name in ("split.json", "records/00001.json"):
        (out / name).unlink()
    convert(out, source=copy)
    names = {name: digest for name, digest in bytes_of(clips).items() if name.endswith((".tar", ".npy"))}
    assert {name: digest for name, digest in bytes_of(out).items() if name.endswith((".tar", ".npy"))} == names


def test_an_unknown_camera_dataset_and_key(refused, rlds):
    assert "choose one of: image" in refused(rlds, camera="wrist")
    assert "no camera 'image_0'" in refused(rlds, dataset="bridge_dataset", camera="image_0")
    assert "'tabeltop' has no entry" in refused(rlds, dataset="tabeltop")
    assert "did you mean 'val_fraction'" in refused(rlds, val_frction=0.1)

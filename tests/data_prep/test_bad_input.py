"""Every bad input is one short error that names the file and the remedy, with exit code 2 and no clips written."""

import json
import shutil

import pytest


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
def test_a_truncated_record(refused, copy, workers):
    shard = shard_of(copy, 1)
    shard.write_bytes(shard.read_bytes()[:-1000])
    error = refused(copy, noted=("notes/00000.json", "notes/00002.json"), workers=workers)
    assert f"{shard}: record 7 is cut off or damaged" in error


def test_files_that_end_too_early_and_what_is_looked_at_again_once_they_are_fetched(refused, copy, convert, tmp_path):
    shards = [shard_of(copy, 1), shard_of(copy, 2)]
    whole = [shard.read_bytes() for shard in shards]
    for shard in shards:
        shard.write_bytes(b"")
    noted = ["notes/00000.json"]
    times = []
    for shard, content in zip(shards, whole, strict=True):
        error = refused(copy, noted=noted)
        assert f"{shard} ends after 0 records, dataset_info.json says 8" in error
        times.append((tmp_path / "out/notes/00000.json").stat().st_mtime_ns)
        shard.write_bytes(content)
        noted.append("notes/00001.json")
    assert times[0] == times[1]
    assert "24 episodes" in convert(tmp_path / "out", source=copy).out
    assert not (tmp_path / "out/notes").exists()


def test_an_unknown_camera_dataset_and_key(refused, rlds):
    assert "choose one of: image" in refused(rlds, camera="wrist")
    assert "no camera 'image_0'" in refused(rlds, dataset="bridge_dataset", camera="image_0")
    assert "'tabeltop' has no entry" in refused(rlds, dataset="tabeltop")
    assert "did you mean 'val_fraction'" in refused(rlds, val_frction=0.1)

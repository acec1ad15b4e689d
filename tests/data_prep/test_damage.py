"""Damaged input, duplicates of earlier folders and specs that do not fit, on RLDS written without TensorFlow."""

import json
import random
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from rlds_files import episode, film, write

from whale.cli import main
from whale.clips.codec import encode
from whale.clips.reader import ClipReader
from whale.config import dump_config
from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Part

EPISODES, FRAMES = 6, 5
SPEC = DatasetSpec(
    name="generated", cameras={"image": "external"}, control_period_sec=0.2, source_keys=("file_path",),
    action=ActionSpec(
        frame=Frame.BASE, position=Part(key="action", size=3), gripper=Part(key="action", first=6, size=1)),
    episode_keys=("file_path",), instruction=None,
)  # fmt: skip


def generate(folder, first: int = 0):
    """Two shards of episodes that are named by their number."""
    made = []
    for i in range(first, first + 2 * EPISODES):
        dice = np.random.default_rng(i)
        made.append(episode(f"episode_{i}", film(dice, FRAMES, 32, "PNG"), dice.normal(0, 0.02, (FRAMES, 7))))
    return write(folder / "generated" / "1.0.0", [made[:EPISODES], made[EPISODES:]])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A YAML file that describes the dataset, as a user would write it."""
    path = tmp_path_factory.mktemp("spec") / "generated.yaml"
    text = "\n".join(f"  {line}" for line in dump_config(SPEC).splitlines())
    path.write_text(f"spec:\n{text}\ncamera: image\nval_fraction: 0.5\nsize_px: 32\n")
    return path


@pytest.fixture
def run(described, capsys):
    """Convert here; the exit code and what was said."""

    def convert(source, out, *words):
        code = main(["data_prep", "convert", str(described), f"source={source}", f"out={out}", *words])
        said = capsys.readouterr()
        return code, said.out + said.err

    return convert


def held(folder) -> dict[tuple[str, int], tuple[str, dict]]:
    """Side and encoded members of every clip, by file and record."""
    clips = {}
    for split in ("train", "val"):
        reader = ClipReader(folder, split)
        for k in range(len(reader)):
            clip = reader.read(k)
            clips[clip.info.source.file, clip.info.source.record] = split, encode(clip)
    return clips


def left_out(folder) -> list[dict]:
    return json.loads((folder / "quarantine.json").read_text())["episodes"]


def damage(raw: bytes, dice: random.Random, cut: bool) -> bytes:
    if cut:
        return raw[: dice.randrange(len(raw))]
    at = dice.randrange(8 * len(raw))
    changed = bytearray(raw)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


@pytest.mark.parametrize("cut", [False, True], ids=["flipped", "cut"])
def test_a_damaged_record_is_quarantined_and_the_others_are_as_they_were(run, source, tmp_path, cut):
    assert run(source, tmp_path / "clean")[0] == 0
    clean, dice = held(tmp_path / "clean"), random.Random(cut)
    copy = shutil.copytree(source, tmp_path / "copy" / "1.0.0")
    shard = copy / "generated-train.tfrecord-00000-of-00002"
    raw = shard.read_bytes()
    for i in range(15):
        shard.write_bytes(damage(raw, dice, cut))
        code, said = run(copy, out := tmp_path / f"out_{i}")
        assert code == 1 and "cannot be read" in said
        clips = held(out)
        lost = {(one["file"], one["record"] + k) for one in left_out(out) for k in range(one["num_records"])}
        assert lost and clips == {key: value for key, value in clean.items() if key not in lost}
        assert all(one["reason"].startswith("unreadable: ") and one["offset"] is not None for one in left_out(out))
        shutil.rmtree(out)


def test_an_image_that_cannot_be_decoded_is_quarantined_by_whichever_task_comes_last(run, source, tmp_path):
    made = []
    for i in range(2 * EPISODES):
        dice = np.random.default_rng(i)
        images = film(dice, FRAMES, 32, "PNG")
        if i in (2, 9):  # of episode 9 a frame that the first pass does not look at
            images[2 if i == 2 else 3] = images[0][:200]
        made.append(episode(f"episode_{i}", images, dice.normal(0, 0.02, (FRAMES, 7))))
    bad = write(tmp_path / "generated" / "1.0.0", [made[:EPISODES], made[EPISODES:]])
    assert run(bad, tmp_path / "out", "tasks=2", "task=1")[0] == 0
    code, said = run(bad, tmp_path / "out", "tasks=2", "task=0", "max_unreadable=1")
    assert code == 1 and "skipped: 2 undecodable" in said and "remove split.json and records/00000.json" in said
    assert (tmp_path / "out/notes/00000.json").is_file()
    assert run(bad, tmp_path / "out", "max_unreadable=2")[0] == 0 and not (tmp_path / "out/notes").exists()
    assert [(one["unit"], one["record"], one["reason"]) for one in left_out(tmp_path / "out")] == [
        (0, 2, "undecodable: the image of step 2 cannot be decoded"),
        (1, 3, "undecodable: the image of step 3 cannot be decoded"),
    ]
    assert len(held(tmp_path / "out")) == 2 * EPISODES - 2


def test_what_earlier_folders_hold_is_left_out_and_nothing_else(run, source, tmp_path):
    raw = source / "generated-train.tfrecord-00000-of-00002"
    other = generate(tmp_path / "more", first=EPISODES)  # its first shard is the second one of `source`
    copy = shutil.copytree(source, tmp_path / "copy" / "1.0.0")
    (copy / raw.name).write_bytes(raw.read_bytes()[: raw.stat().st_size // 3])
    assert run(copy, tmp_path / "first")[0] == 1
    for known, expected in ((["first"], EPISODES), (["first", "first"], EPISODES), ([], 0)):
        folders = ", ".join(str(tmp_path / one) for one in known)
        assert run(other, tmp_path / "second", f"known=[{folders}]")[0] == 0
        reasons = Counter(one["reason"].split(" in ")[0] for one in left_out(tmp_path / "second"))
        assert sum(reasons.values()) == expected and len(held(tmp_path / "second")) == 2 * EPISODES - expected
        assert not expected or reasons["duplicate: of record 0 of input shard 1"] == 1
    code, said = run(other, tmp_path / "second", f"known=[{tmp_path / 'second'}]")
    assert code == 2 and "every episode repeats one that a folder in `known` holds" in said
    lost = {one["record"] + i for one in left_out(tmp_path / "first") for i in range(one["num_records"])}
    assert run(source, tmp_path / "third", f"known=[{tmp_path / 'first'}]")[0] == 0
    assert len(lost) > 2 and set(held(tmp_path / "third")) == {(raw.name, record) for record in lost}


def test_a_feature_that_the_spec_names_and_no_episode_has_is_told_before_any_clip(run, source, tmp_path):
    code, said = run(source, tmp_path / "out", "spec.has_rewards=true")
    assert code == 2 and "12 missing feature reward" in said and "correct `spec`" in said
    assert not list(tmp_path.glob("out/*.tar"))


def test_an_episode_too_long_for_one_clip_is_told_before_any_is_written(run, source, tmp_path):
    for words in ((), ("clip_frames=4",)):
        code, said = run(source, tmp_path / "out", "size_px=5000", *words)
        assert code == 2 and f"would have {4 if words else 5} frames of 5000 pixels" in said
        assert "set `clip_frames` to 3 at most" in said and not list(tmp_path.glob("out/*.tar"))


def test_what_makes_all_episodes_useless_is_told_in_full_before_any_clip(run, source, tmp_path):
    for word, problem in (
        ("spec.success=won", "12 missing feature won"),
        ("spec.instruction=action", "12 malformed feature: "),
        ("spec.source_keys=[steps]", "12 missing feature steps of the metadata"),
        ("spec.proprio=[{key: observation}]", "12 malformed feature: "),
        ("spec.proprio=[{key: action, first: 5, size: 3}]", "action has 7 columns, needed are 5 to 7"),
        ("spec.action.gripper={first: 0, size: null}", "action gives 7 columns for the gripper: set `size` to 1"),
        ("spec.action.position={size: null}", "7 columns for a position: set `size` to 3"),
        ("control_period_sec=1.0", "12 shorter than 2 frames"),
        ("min_frames=6", "12 shorter than 6 frames"),
    ):
        code, said = run(source, tmp_path / "out", word)
        assert code == 2 and problem in said and "correct `spec`" in said, said
        assert not list(tmp_path.glob("out/*.tar"))


def test_too_short_episodes_are_on_no_side(run, tmp_path):
    made = [episode(f"episode_{i}", film(np.random.default_rng(i), i, 32, "PNG"), np.full((i, 7), 0.01)) for i in
            range(1, 9)]
    source = write(tmp_path / "generated" / "1.0.0", [made[:4], made[4:]])
    for fraction in (0.01, 0.99):  # one of the two that are long enough is held out, whatever the places of the others
        code, said = run(source, tmp_path / "out", "min_frames=7", f"val_fraction={fraction}")
        assert code == 0 and "5 shorter than 7 frames" in said and "1 shorter than two steps" in said
        assert len(held(tmp_path / "out")) == 2


def test_a_file_that_goes_on_behind_its_last_record_is_damage(run, source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy" / "1.0.0")
    shard = copy / "generated-train.tfrecord-00001-of-00002"
    shard.write_bytes(shard.read_bytes() + b"more")
    code, said = run(copy, tmp_path / "out")
    assert code == 1 and "goes on behind the 6 records" in said and len(held(tmp_path / "out")) == 2 * EPISODES
    assert run(copy, tmp_path / "out", "max_unreadable=1")[0] == 0


def test_a_file_that_was_cut_off_and_is_fetched_again_is_the_only_one_done_again(run, source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy" / "1.0.0")
    shard = copy / "generated-train.tfrecord-00001-of-00002"
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-1])
    assert run(copy, tmp_path / "out")[0] == 1
    healthy = copy / "generated-train.tfrecord-00000-of-00002"
    healthy.write_bytes(bytes(healthy.stat().st_size))  # neither pass reads it again
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*-00000-*")}
    shard.write_bytes(raw)
    code, said = run(copy, tmp_path / "out")
    assert code == 0 and "1 of 2 input shards were done before" in said
    assert len(before) == 4 and before == {path: path.stat().st_mtime_ns for path in before}
    assert run(source, tmp_path / "clean")[0] == 0
    clean, mended = ((tmp_path / name / "manifest.json").read_bytes() for name in ("clean", "out"))
    assert clean == mended and not (tmp_path / "out/notes").exists()


def test_a_corrected_number_of_records_is_noticed(run, source, tmp_path):
    """It is said in dataset_info.json alone: the files have the same names and sizes."""
    copy = shutil.copytree(source, tmp_path / "copy" / "1.0.0")
    info = (copy / "dataset_info.json").read_text()
    (copy / "dataset_info.json").write_text(info.replace('["6", "6"]', '["6", "5"]'))
    assert run(copy, tmp_path / "out")[0] == 1
    (copy / "dataset_info.json").write_text(info)
    assert run(copy, tmp_path / "out")[0] == 0 and len(held(tmp_path / "out")) == 2 * EPISODES


@pytest.mark.parametrize(("problem", "words"), [
    ("spec.control_period_sec", ["spec.control_period_sec=0", "control_period_sec=0.4"]),
    ("spec.drop_first", ["spec.drop_first=-1"]),
    ("bgr names wrist: not among the cameras", ["spec.bgr=[image, wrist]"]),
    ("of no use unless action_type is joint", ["spec.action.joints={key: action}"]),
    ("pose.arm, which is missing", ["spec.pose.joints={key: action}"]),
    ("the motion target of joints needs pose.joints", ["spec.action_type=joint", "spec.action.motion=target"]),
    ("the motion delta of joints needs action.joints", ["spec.action_type=joint"]),
], ids=lambda one: one if isinstance(one, str) else "")  # fmt: skip
def test_a_spec_that_cannot_hold(run, source, tmp_path, problem, words):
    code, said = run(source, tmp_path / "out", *words)
    assert code == 2 and problem in said and not (tmp_path / "out").exists()


def test_an_address_to_write_to_is_refused(run, source):
    code, said = run(source, "gs://bucket/clips")
    assert code == 2 and "is no path on this machine" in said


def test_a_version_that_the_spec_does_not_hold_for_is_refused(run, source, tmp_path):
    code, said = run(source, tmp_path / "out", "spec.versions=[0.9.0, 2.0.0]")
    assert code == 2 and "does not hold for version 1.0.0" in said and "fetch version 0.9.0 or 2.0.0" in said
    code, said = run(source, tmp_path / "out", "dataset=generated")
    assert code == 2 and "not both" in said


def test_nothing_of_tensorflow_is_loaded(source, described, tmp_path):
    script = ("import sys\nfrom whale.cli import main\n"
              f"code = main(['data_prep', 'convert', {str(described)!r}, 'source={source}', 'out={tmp_path}/out'])\n"
              "assert code == 0 and not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)\n")
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)

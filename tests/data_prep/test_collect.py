from dataclasses import replace

import numpy as np
import pytest

from whale.clips.reader import ClipReader
from whale.data_prep.collect import EPISODES_PER_SEED, INSTRUCTION, simulate
from whale.data_prep.config import CollectConfig
from whale.errors import UserError
from whale.sim.policies import SKILLS
from whale.sim.tabletop import Tabletop


def test_clips_line_up_with_the_world_replayed_from_the_seed(clips):
    """Setting the recorded start and applying the recorded actions gives the recorded frames, states and rewards."""
    checked = 0
    for split in ("train", "val"):
        reader = ClipReader(clips, split)
        for clip in map(reader.read, range(len(reader))):
            number = int(clip.info.episode.rsplit("/", 1)[1])
            world = Tabletop(1)
            world.reset(np.array([5 * EPISODES_PER_SEED + number]))
            for t in range(clip.num_frames):
                assert np.array_equal(world.render()[0], clip.frames[t])
                assert np.array_equal(world.proprio()[0], clip.proprio[t])
                assert clip.is_terminal[t] == world.terminated[0]
                if t < clip.num_frames - 1:
                    assert clip.action_known[t]
                    assert world.step(clip.actions[t : t + 1])[0][0] == clip.rewards[t]
            assert not clip.action_known[-1] and clip.is_last[-1] and clip.is_first[0]
            assert not clip.is_last[:-1].any() and not clip.is_first[1:].any()
            assert clip.info.success == bool(world.success()[0])
            assert clip.info.instruction == INSTRUCTION
            checked += 1
    assert checked == 24


def test_an_episode_does_not_depend_on_its_batch(tmp_path):
    config = CollectConfig(out=tmp_path, episodes=30, steps=5)
    together, alone = simulate(config, 0, 30), simulate(config, 17, 1)
    for name, value in alone.items():
        assert np.array_equal(value[0], together[name][17]), name


def test_a_scene_that_terminates_ends_its_episode(tmp_path, monkeypatch):
    from whale.data_prep.collect import _episode

    config = CollectConfig(out=tmp_path, episodes=1, steps=6)
    played = simulate(config, 0, 1)
    played["terminal"][0, 3:] = True
    steps = _episode(config, played, 0, 0)["steps"]
    assert len(steps) == 4
    assert [s["is_terminal"] for s in steps] == [False, False, False, True] == [s["is_last"] for s in steps]
    assert steps[-1]["reward"] == 0 and not steps[-1]["action"].any() and steps[-2]["reward"] > 0


def test_policies_take_turns_and_scenes_differ(tmp_path):
    names = ("expert", "idle")
    config = CollectConfig(out=tmp_path, episodes=4, steps=6, policies=names)
    found = simulate(config, 0, 4)
    motion = np.abs(found["action"][..., :3]).sum((1, 2))
    assert motion[[0, 2]].min() > motion[[1, 3]].max()
    assert len(SKILLS) == 12
    shifted = simulate(CollectConfig(out=tmp_path, episodes=4, steps=6, scene="shifted"), 0, 4)
    assert not np.array_equal(shifted["image"], found["image"])


def test_equal_settings_give_equal_files_and_wrong_ones_are_refused(whale, rlds, tmp_path):
    ran = whale("collect", out=tmp_path / "again", episodes=24, steps=12, shards=3, seed=5)
    assert ran.code == 0, ran.err
    files = {path.name: path.read_bytes() for path in rlds.iterdir()}
    assert len([name for name in files if "tfrecord" in name]) == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "again/tabletop/1.0.0").iterdir()} == files
    assert [path.name for path in (tmp_path / "again").rglob("*") if path.is_dir()] == ["tabletop", "1.0.0"]
    ran = whale("collect", out=tmp_path / "b", episodes=2, shards=3)
    assert ran.code == 2 and "fewer `shards`" in ran.err and not (tmp_path / "b").exists()
    with pytest.raises(UserError, match="no policy 'expart'"):
        simulate(CollectConfig(out=tmp_path, episodes=1, policies=("expart",)), 0, 1)


def test_no_collected_episode_starts_where_evaluation_does(tmp_path):
    """The last episode of the last seed still lies below the first start state."""
    from whale.eval.config import ValueConfig
    from whale.eval.value import run_truth

    config = CollectConfig(out=tmp_path, seed=999, episodes=EPISODES_PER_SEED, steps=2)
    last = simulate(config, config.episodes - 1, 1)["seed"]
    starts = ValueConfig(out="out", model="model", clips="clips", num_starts=2, horizon=1, seed=0)
    assert last < run_truth(starts).start_seeds.min()
    for wrong in ({"seed": 1000}, {"seed": -1}, {"episodes": EPISODES_PER_SEED + 1}):
        with pytest.raises(ValueError, match="must be"):
            CollectConfig(**({"out": tmp_path, "episodes": 4} | wrong))
    with pytest.raises(ValueError, match="seed"):
        replace(starts, seed=-1)

"""SIGKILL in the middle of a conversion and of tokenizing: the same command again ends with the same bytes.

A process is held before it publishes a certain file, so that the kill hits the phase that is meant; or it is killed at
a random moment.
"""

import os
import random
import time

import pytest
import torch

from whale.cli import main


def num_files(folder):
    return sum(len(files) for _, _, files in os.walk(folder))


def names(folder, pattern):
    return sorted(path.name for path in folder.glob(pattern))


def test_convert_killed_in_its_scan_and_in_its_end(start, convert, settings, clips, bytes_of, tmp_path):
    out = tmp_path / "out"
    start("convert", before="notes/00001.json", **settings, out=out).kill()
    assert names(out, "notes/0*") == ["00000.json"] and not (out / "split.json").exists()
    convert(out)
    assert bytes_of(out) == bytes_of(clips)
    for point in ("stats.json", "convert_report.json", "manifest.json"):
        for name in ("manifest.json", "convert_report.json", "stats.json"):
            (out / name).unlink(missing_ok=True)
        start("convert", before=point, **settings, out=out).kill()
        assert not (out / point).exists()
    convert(out)
    assert bytes_of(out) == bytes_of(clips)


def test_convert_killed_with_two_workers_and_then_as_a_task(start, convert, settings, clips, bytes_of, tmp_path):
    """Two kills while clips are written: of a conversion with two workers, and of a task that goes on with it."""
    out = tmp_path / "out"
    start("convert", before="records/00001.json", **settings, out=out, workers=2).kill()
    assert names(out, "train-00001*") and "00001.json" not in names(out, "records/*")
    killed = start("convert", before="train-00001-000.idx.npy", **settings, out=out, tasks=2, task=1)
    assert "task 0 of 2 is done; 1 of 3 input shards are still to be done" in convert(out, tasks=2, task=0).out
    killed.kill()
    assert names(out, ".tmp-*00001*") and names(out, "records/0*") == ["00000.json", "00002.json"]
    convert(out, tasks=2, task=1)
    assert bytes_of(out) == bytes_of(clips)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from whale.export import save_export
    from whale.models.tokenizer import TokenizerConfig, VideoTokenizer

    torch.manual_seed(0)
    config = TokenizerConfig(width=16, heads=2, decoder_depth=1)
    folder = tmp_path_factory.mktemp("tokenizer")
    save_export(folder, "tokenizer", VideoTokenizer(config), config, {})
    return folder


def test_tokenize_killed_at_random_moments(start, clips, tokenizer, bytes_of, tmp_path):
    settings = {"clips": clips, "tokenizer": tokenizer, "batch_frames": 1}

    def here(out):
        return main(["data_prep", "tokenize", *(f"{key}={value}" for key, value in settings.items()), f"out={out}"])

    assert here(tmp_path / "whole") == 0
    out, dice, done = tmp_path / "out", random.Random(0), 0
    for _ in range(2):
        started = start("tokenize", **settings, out=out)
        while len(names(out, "records/0*")) <= done:
            assert started.process.poll() is None
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.05))
        started.kill()
        done = len(names(out, "records/0*"))
        assert 0 < done < 6 and not (out / "manifest.json").exists()
    ending = start("tokenize", before="manifest.json", **settings, out=out)
    assert here(out) == 2  # another process is at the same work
    ending.kill()
    assert here(out) == 0
    assert bytes_of(out) == bytes_of(tmp_path / "whole")


@pytest.fixture(scope="module")
def many(whale, settings, tmp_path_factory):
    """48 episodes in six input shards: their settings, and the folder that an undisturbed conversion made of them."""
    folder = tmp_path_factory.mktemp("many")
    assert whale("collect", out=folder, episodes=48, steps=24, shards=6).code == 0
    settings = settings | {"source": folder / "tabletop/1.0.0"}
    assert whale("convert", **settings, out=folder / "clips").code == 0
    return settings, folder / "clips"


@pytest.mark.parametrize(("workers", "kills"), [(1, 4), (2, 3), (3, 3)])
def test_convert_killed_at_random_moments(start, many, bytes_of, tmp_path, workers, kills):
    """Ten in all: whenever a random number of files has appeared, be they finished or not."""
    settings, clips = many
    dice, out, hits = random.Random(workers), tmp_path / "out", 0
    while hits < kills:
        started = start("convert", **settings, out=out, workers=workers)
        enough = num_files(out) + dice.randrange(1, 30)
        while num_files(out) < enough and started.process.poll() is None:
            time.sleep(0.002)
        if started.hit():
            hits += 1
        else:  # it came to its end: the next is killed in another folder
            assert bytes_of(out) == bytes_of(clips)
            out = tmp_path / f"out_{hits}"
    start("convert", **settings, out=out, workers=workers).finish()
    assert bytes_of(out) == bytes_of(clips)


@pytest.mark.slow
def test_an_array_whose_tasks_are_killed_again_and_again(start, many, bytes_of, tmp_path):
    settings, clips = many
    out, dice, kills = tmp_path / "out", random.Random(0), 0
    running = {task: start("convert", **settings, out=out, tasks=2, task=task) for task in range(2)}
    while running:
        task, started = dice.choice(list(running.items()))
        time.sleep(dice.uniform(0, 0.8))
        if kills == 12:
            started.finish()
            del running[task]
        elif not started.hit():
            del running[task]
        else:
            kills += 1
            running[task] = start("convert", **settings, out=out, tasks=2, task=task)
    assert kills >= 2 and bytes_of(out) == bytes_of(clips)

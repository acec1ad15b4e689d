"""A conversion as an array of tasks that share nothing but the folder."""

import itertools
import random
import shutil
import time

import pytest


@pytest.fixture
def unfinished(clips, tmp_path):
    """All input shards are done, but nothing is derived from them yet."""
    out = shutil.copytree(clips, tmp_path / "unfinished")
    for name in ("manifest.json", "stats.json", "convert_report.json"):
        (out / name).unlink()
    return out


@pytest.mark.parametrize("order", [(0, 1), (1, 0), *itertools.permutations(range(3)), (4, 0, 3, 2, 1)])
def test_tasks_in_any_order_give_the_bytes_of_one(convert, clips, bytes_of, tmp_path, order):
    left = 3
    for task in order:
        assert not (tmp_path / "out/manifest.json").exists()
        ran = convert(tmp_path / "out", tasks=len(order), task=task)
        left -= len(range(task, 3, len(order)))
        if left:
            assert f"task {task} of {len(order)} is done; {left} of 3 input shards are still to be done" in ran.out
    assert bytes_of(tmp_path / "out") == bytes_of(clips)


def test_the_number_of_tasks_may_change_and_notes_are_shared(convert, clips, bytes_of, tmp_path):
    out = tmp_path / "out"
    convert(out, tasks=3, task=2)
    (out / "split.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in (*out.glob("notes/*"), *out.glob("*-00002-*"))}
    assert len(before) > 3
    convert(out, tasks=2, task=1)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    convert(out)
    assert bytes_of(out) == bytes_of(clips)


def test_a_task_that_does_not_exist(whale, settings, tmp_path):
    ran = whale("convert", **settings, out=tmp_path / "out", tasks=2, task=2)
    assert ran.code == 2 and "task 2 must be below tasks 2" in ran.err and not (tmp_path / "out").exists()


def test_a_second_process_is_refused_and_the_first_goes_on(start, whale, settings, unfinished, clips, bytes_of):
    first = start("convert", before="stats.json", **settings, out=unfinished)
    before = bytes_of(unfinished)
    for others, problem in (
        ({}, f"another process is at the same work in {unfinished} (task 0)"),
        ({"size_px": 32}, "with other settings or another number of tasks"),
        ({"tasks": 2, "task": 1}, "with other settings or another number of tasks"),
    ):
        ran = whale("convert", **settings, **others, out=unfinished)
        assert ran.code == 2 and problem in ran.err and "remedy: wait until it has ended" in ran.err
    assert bytes_of(unfinished) == before
    first.finish()
    assert bytes_of(unfinished) == bytes_of(clips)


def test_one_task_finishes_and_the_others_do_not_wait(start, convert, settings, unfinished, clips, bytes_of):
    array = {"out": unfinished, "tasks": 2}
    finishing = start("convert", before="stats.json", **settings, **array, task=0)
    other = start("convert", **settings, **array, task=1)
    time.sleep(random.uniform(0, 0.3))  # less than it takes to start
    other.kill()
    assert "task 1 of 2 is done; another one is finishing" in convert(**array, task=1).out
    finishing.finish()
    assert bytes_of(unfinished) == bytes_of(clips)


def test_a_task_killed_while_it_finishes_is_replaced_by_another(start, convert, settings, unfinished, clips, bytes_of):
    start("convert", before="manifest.json", **settings, out=unfinished, tasks=2, task=0).kill()
    assert (unfinished / "stats.json").exists() and not (unfinished / "manifest.json").exists()
    convert(unfinished, tasks=2, task=1)
    assert bytes_of(unfinished) == bytes_of(clips)

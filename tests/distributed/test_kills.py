"""SIGKILL at any moment: the same command goes on, and ends with the same bits as a run that was left alone."""

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launch import Launcher, Ranks
from tiny_runs import bits

from whale.tracker import read_metrics

START_SEC = 0.7
"""From the start of the processes to their first step, about."""


class Killing:
    """A run of two processes that is killed again and again, beside one that was left alone."""

    def __init__(self, launcher: Launcher, words: list[object], run: Path, left_alone: Path):
        self._launcher, self._words, self._run, self._left_alone = launcher, words, run, left_alone
        lines = read_metrics(left_alone / "metrics.jsonl")
        self._takes_sec = START_SEC + lines[-1]["time_sec"] - lines[0]["time_sec"]
        self.kills = 0

    def at_a_random_moment(self) -> None:
        """One kill; a run that ends before it is compared, and begins anew."""
        before = self.kills
        while self.kills == before:
            running = self._start()
            time.sleep(random.uniform(0, self._takes_sec))
            self._kill(running, lambda: True)

    def inside_a_save(self) -> None:
        """One kill while files of a checkpoint are there that is not complete; more, if others hit beside it."""
        before = self.kills
        while self.kills == before:
            left_over = set(self._saves())
            running = self._start()

            def is_saving(left_over: set[Path] = left_over) -> bool:
                return not left_over.issuperset(self._saves())

            while running.alive() and not is_saving():
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.01))
            self._kill(running, is_saving)

    def _saves(self) -> Iterator[Path]:
        """Folders of checkpoints that are not complete; a checkpoint may be published while they are listed."""
        with contextlib.suppress(FileNotFoundError):
            for folder in self._run.glob("**/checkpoints/.tmp-step_*"):
                if any(folder.iterdir()):
                    yield folder

    def _start(self) -> Ranks:
        return self._launcher.start(*self._words, ranks=2)

    def _kill(self, running: Ranks, is_right: Callable[[], bool]) -> None:
        if all(rank.alive() for rank in running.ranks):
            running.kill()
            self.kills += is_right()
        else:
            running.succeed()
            self._compare()
            shutil.rmtree(self._run)

    def finish(self) -> None:
        """Go on to the end, and compare."""
        self._start().succeed()
        self._compare()

    def _compare(self) -> None:
        for checkpoints in self._left_alone.rglob("checkpoints"):
            killed = self._run / checkpoints.parent.relative_to(self._left_alone)
            assert bits(killed) == bits(checkpoints.parent)
            assert not list(killed.glob("checkpoints/.tmp-*"))


@pytest.fixture
def killing(tiny, launcher, train, tmp_path):
    def make(task: str, **settings) -> Killing:
        words = tiny.words(task, tmp_path / "run", loop__save_every=1, **settings)
        return Killing(launcher, words, tmp_path / "run", train(task, 2, **settings))

    return make


def test_three_kills_one_of_them_inside_a_save(killing):
    kill = killing("dynamics", engine__zero=1)
    kill.at_a_random_moment()
    kill.inside_a_save()
    kill.at_a_random_moment()
    assert kill.kills == 3
    kill.finish()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["dynamics", "tokenizer", "world_model"])
@pytest.mark.parametrize("zero", [None, 0, 1, 2, 3])
def test_more_kills(killing, task, zero):
    """50 at the stage most used, 6 at each other."""
    kill = killing(task, engine__zero=zero)
    while kill.kills < (50 if (task, zero) == ("dynamics", 1) else 6):
        kill.at_a_random_moment()
        kill.inside_a_save()
    kill.finish()


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, 2])
def test_kills_with_data_loading_processes_offload_and_accumulation(killing, zero):
    offload = {} if zero is None else {"engine__offload_optimizer": True}
    kill = killing("dynamics", engine__zero=zero, engine__micro_batch=1, data__workers=1, **offload)
    while kill.kills < 6:
        kill.at_a_random_moment()
        kill.inside_a_save()
    kill.finish()

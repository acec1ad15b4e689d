"""A rank that dies, fails or hangs stops the others, with its name."""

import signal
import time

import pytest
from launch import Ranks
from tiny_runs import bits, last_checkpoint

from whale.watch import EXIT_CODE

# The others wait in a collective operation, as in training.
WAIT = """
import torch, whale.watch
from pathlib import Path
from whale.errors import UserError
from whale.ranks import join, total_of
whale.watch.DEAD_AFTER_SEC = 3.0
try:
    with join("cpu", Path("run")) as here:
        total_of(1.0)
        print("met")
        sys.stdout.flush()
        if here.rank == {rank}:
            {what}
        total_of(2.0)
except UserError as error:
    print(error)
    sys.exit(2)
"""
FOREVER = "import time; time.sleep(600)"


def waiting(launcher, rank: int, what: str, ranks: int = 3) -> Ranks:
    running = launcher.start(ranks=ranks, before=WAIT.format(rank=rank, what=what))
    running.until(lambda: all("met" in one.said() for one in running.ranks), "its meeting")
    return running


def assert_others_stopped(running: Ranks, rank: int, why: str) -> None:
    codes = running.codes()
    for other in {0, 1, 2} - {rank}:
        assert codes[other] == EXIT_CODE, running.said()
        said = running[other].said()
        assert f"rank {other} stops: rank {rank} (" in said and f"pid {running[rank].pid})" in said
        assert why in said and "the same command goes on from the last checkpoint" in said


def test_one_that_is_killed(launcher):
    running = waiting(launcher, 1, FOREVER)
    running.kill(1)
    assert_others_stopped(running, 1, "has died")


def test_the_one_that_keeps_the_meeting_point_is_killed(launcher):
    running = waiting(launcher, 0, FOREVER)
    running.kill(0)
    assert_others_stopped(running, 0, "which keeps the meeting point, has died")


@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_one_that_hangs(launcher, rank):
    running = waiting(launcher, rank, FOREVER)
    running.send(signal.SIGSTOP, rank)
    running.until(lambda: not running.alive(*{0, 1, 2} - {rank}), "an end")
    running.kill(rank)
    assert_others_stopped(running, rank, "has died: not heard of for 3 s")


@pytest.mark.parametrize("rank", [0, 2])
def test_one_that_raises(launcher, rank):
    running = waiting(launcher, rank, "raise RuntimeError('a bug')")
    assert_others_stopped(running, rank, "has failed: a bug")
    assert running[rank].code == 1 and "Traceback" in running[rank].said()


def test_one_with_an_error_that_its_user_can_put_right(launcher):
    running = waiting(launcher, 1, "raise UserError('clip 7 is damaged', 'convert it again')")
    assert_others_stopped(running, 1, "has failed: clip 7 is damaged")
    assert running[1].code == 2 and "convert it again" in running[1].said()


@pytest.mark.slow
def test_all_of_them_suspended_for_a_while_go_on(launcher, tmp_path):
    """As when a batch system lends their machines to another job."""
    wait = f"while not os.path.exists({str(tmp_path / 'go_on')!r}): torch.ones(1)"
    running = waiting(launcher, 1, wait)
    running.send(signal.SIGSTOP)
    time.sleep(5)
    running.send(signal.SIGCONT)
    time.sleep(1)
    (tmp_path / "go_on").touch()
    running.succeed()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("zero", [None, 1, 3])
def test_in_training_within_a_minute_and_nothing_is_lost(tiny, launcher, train, tmp_path, zero, number):
    """With the waiting time as it is, and the disturbed run ends with the bits of one that was left alone."""
    words = tiny.words("dynamics", tmp_path / "run", engine__zero=zero, loop__save_every=2)
    running = launcher.start(*words, ranks=2, pause_at=7)
    running.until_paused()
    running.send(number, 1)
    start = time.monotonic()
    running.go_on().until(lambda: not running.alive(0), "an end of rank 0")
    assert time.monotonic() - start < 60
    assert running[0].code == EXIT_CODE and "rank 0 stops: rank 1 (" in running[0].said()
    running.kill()
    assert last_checkpoint(tmp_path / "run").step in (4, 6)  # 6 may not have been published
    launcher.run(*words, ranks=2)
    assert bits(tmp_path / "run") == bits(train("dynamics", 2, engine__zero=zero))

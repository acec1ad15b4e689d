"""SIGTERM and SIGUSR1: everyone saves at the same step, and the same command ends with the same bits."""

import signal

import pytest
from tiny_runs import bits, last_checkpoint

from whale.run_folder import read_record

# The main process takes its time with the metrics: the others, long done, must wait for it and not take it for failed.
SLOW_TO_LEAVE = """
import time
from whale.run_log import RunLog

def close_slowly(log, close=RunLog.close):
    time.sleep(1.5 * (os.environ["RANK"] == "0"))
    close(log)

RunLog.close = close_slowly
"""


@pytest.mark.parametrize(
    ("number", "ranks", "workers"),
    [
        (signal.SIGTERM, [1], 0),
        (signal.SIGUSR1, [0, 1], 1),
        pytest.param(signal.SIGUSR1, [0], 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, [0, 1], 1, marks=pytest.mark.slow),
    ],
)
def test_all_save_and_stop_and_the_same_command_goes_on(
    tiny, launcher, train, tmp_path, number, ranks, workers
):  # fmt: skip
    """A signal to one rank; or to the group of each, as a batch system sends it, with the processes that load data."""
    words = tiny.words("dynamics", tmp_path, engine__zero=1, data__workers=workers)
    running = launcher.start(*words, ranks=2, pause_at=3, before=SLOW_TO_LEAVE)
    running.until_paused()
    running.send(number, *ranks, group=workers > 0)
    assert running.go_on().codes() == [75, 75], running.said()
    assert last_checkpoint(tmp_path).step == 4
    record = read_record(tmp_path)
    assert (record.state, record.step, record.attempt) == ("stopped", 4, 1)
    assert record.message == (number.name if 0 in ranks else "a signal to another process")
    assert "step 4 of 10 is saved" in running[0].said()
    launcher.run(*words, ranks=2)
    assert bits(tmp_path) == bits(train("dynamics", 2, engine__zero=1))
    assert read_record(tmp_path).state == "finished"


def test_a_signal_at_the_last_step_finishes(tiny, launcher, train, tmp_path):
    running = launcher.start(*tiny.words("dynamics", tmp_path, engine__zero=1), ranks=2, pause_at=9)
    running.until_paused()
    running.send(signal.SIGTERM)
    running.go_on().succeed()
    assert bits(tmp_path) == bits(train("dynamics", 2, engine__zero=1))

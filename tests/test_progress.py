import io
import types

import pytest

from whale import progress
from whale.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets, in place of the machine's."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_batch_log_gets_a_plain_line_now_and_then(clock):
    out = io.StringIO()
    bar = Progress("convert", total=100, unit="episodes", every_sec=10, out=out)
    for _ in range(40):
        clock[0] += 1.0
        bar.advance(2, note="3 skipped")
    lines = out.getvalue().splitlines()
    assert lines == [
        "convert: 20/100 episodes, 2 episodes/s, ETA 0:40, 3 skipped",
        "convert: 40/100 episodes, 2 episodes/s, ETA 0:30, 3 skipped",
        "convert: 60/100 episodes, 2 episodes/s, ETA 0:20, 3 skipped",
        "convert: 80/100 episodes, 2 episodes/s, ETA 0:10, 3 skipped",
    ]
    assert "\r" not in out.getvalue()


def test_close_shows_the_final_state(clock):
    out = io.StringIO()
    bar = Progress("x", total=10, unit="clips", out=out)
    clock[0] += 2
    bar.advance(10)
    bar.close()
    assert out.getvalue() == "x: 10/10 clips, 5 clips/s, ETA 0:00\n"


def test_work_done_before_a_restart_does_not_count_towards_the_rate(clock):
    out = io.StringIO()
    bar = Progress("x", total=7300, unit="steps", done=50, out=out)
    clock[0] += 25
    bar.advance(50)
    assert out.getvalue() == "x: 100/7300 steps, 2 steps/s, ETA 1:00:00\n"


def test_large_rates_are_written_out(clock):
    out = io.StringIO()
    bar = Progress("x", total=10**6, unit="frames", out=out)
    clock[0] += 10
    bar.advance(123456)
    assert "12346 frames/s" in out.getvalue()


def test_nothing_done_has_no_eta(clock):
    out = io.StringIO()
    Progress("x", total=5, unit="clips", out=out).close()
    assert out.getvalue() == "x: 0/5 clips, 0 clips/s, ETA ?\n"


def test_a_terminal_gets_one_line_redrawn_with_a_bar(clock):
    out = Terminal()
    bar = Progress("x", total=4, unit="clips", out=out)
    for _ in range(4):
        clock[0] += 1
        bar.advance()
    bar.close()
    shown = out.getvalue()
    assert shown.count("\r") == 5 and shown.count("\n") == 1
    redrawn = shown.split("\r")
    assert redrawn[2].startswith(f"[{'#' * 12}{'.' * 12}] x: 2/4 clips")
    assert redrawn[5].startswith(f"[{'#' * 24}] x: 4/4 clips")


def test_an_empty_job_can_be_shown(clock):
    out = Terminal()
    Progress("x", total=0, unit="clips", out=out).close()
    assert "0/0 clips" in out.getvalue()


def test_a_plain_line_tells_the_time_left_and_leaves_the_bar_below(clock):
    log, terminal = io.StringIO(), Terminal()
    for out in (log, terminal):
        bar = Progress("x", total=10, unit="steps", every_sec=float("inf"), out=out)
        clock[0] += 20
        bar.advance(4)
        bar.line("step 4/10")
    assert log.getvalue() == "step 4/10  ETA 0:30\n"
    assert terminal.getvalue().endswith("\r\x1b[Kstep 4/10  ETA 0:30\n") and "[####" in terminal.getvalue()

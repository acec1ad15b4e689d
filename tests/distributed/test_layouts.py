"""A run goes on with another number of processes or another ZeRO stage, or says before it trains that it cannot."""

import json
import signal
from pathlib import Path

import pytest
from tiny_runs import curve, last_checkpoint, losses

CLOSE = 1e-5


@pytest.fixture
def left_alone(train) -> Path:
    return train("dynamics", 1)


@pytest.fixture
def part(tiny, launcher, tmp_path):
    """Train on in one run folder; with `until`, stop after that step as a batch system would."""

    def go_on(zero: int | None, ranks: int, until: int | None = None, **settings) -> Path:
        words = tiny.words("dynamics", tmp_path / "run", engine__zero=zero, **settings)
        if until is None:
            launcher.run(*words, ranks=ranks)
        else:
            running = launcher.start(*words, ranks=ranks, pause_at=until - 1)
            running.until_paused()
            running.send(signal.SIGTERM, 0)
            assert running.go_on().codes() == [75] * ranks, running.said()
            state = json.loads((last_checkpoint(tmp_path / "run").folder / "state.json").read_text())
            assert (state["step"], state["layout"]["zero"]) == (until, zero)
        return tmp_path / "run"

    return go_on


def assert_same_curve(run: Path, other: Path) -> None:
    """Losses within 1e-5 of each other, from the very same batches."""
    assert losses(run) == pytest.approx(losses(other), rel=CLOSE)
    samples = [[line.get("samples") for line in curve(one)] for one in (run, other)]
    assert samples[0] == samples[1]


def test_stage_and_number_of_processes_change_and_change_back(part, left_alone):
    part(1, 1, until=4)
    part(2, 2, until=7, engine__reshard=True)
    assert_same_curve(part(1, 1, engine__reshard=True), left_alone)


def test_stage_3_goes_from_two_processes_to_one(part, left_alone):
    part(3, 2, until=6)
    assert_same_curve(part(3, 1, engine__reshard=True), left_alone)


def test_without_zero_the_number_of_processes_is_free(part, left_alone):
    part(None, 2, until=6)
    assert_same_curve(part(None, 1), left_alone)


@pytest.mark.slow
@pytest.mark.parametrize("layouts", [
    [(1, 1), (1, 2), (1, 1)], [(1, 2), (2, 2), (1, 2)], [(2, 2), (1, 1)], [(3, 1), (3, 2), (3, 1)], [(3, 4), (3, 2)],
    [(1, 4), (1, 2), (2, 1)], [(0, 1), (0, 2), (0, 1)], [(None, 1), (None, 2), (None, 1)],
])  # fmt: skip
def test_other_layouts(part, left_alone, layouts):
    for number, (zero, ranks) in enumerate(layouts):
        last = number == len(layouts) - 1
        run = part(zero, ranks, until=None if last else 4 * (number + 1), engine__reshard=number > 0)
    assert_same_curve(run, left_alone)


REFUSED = [
    ((1, 1), (1, 2), "under ZeRO 1 by 1 process", "under ZeRO 1 by 2 processes", "engine.reshard=true"),
    ((1, 1), (2, 1), "under ZeRO 1 by 1 process", "under ZeRO 2 by 1 process", "engine.reshard=true"),
    ((1, 1), (3, 1), "under ZeRO 1 by 1 process", "under ZeRO 3 by 1 process", "engine.zero=1"),
    ((1, 1), (None, 1), "under ZeRO 1", "without", "engine.zero=1"),
    ((3, 1), (1, 1), "under ZeRO 3 by 1 process", "under ZeRO 1 by 1 process", "engine.zero=3"),
    ((None, 1), (1, 1), "without ZeRO", "under ZeRO 1 by 1 process", "engine.zero=null"),
]


@pytest.mark.parametrize("saved", [(1, 1), (3, 1), (None, 1)], ids=lambda layout: f"zero{layout[0]}")
def test_what_cannot_be_carried_over_is_refused_before_training(tiny, launcher, part, left_alone, saved):
    """With both layouts and the remedy named; the original command still goes on."""
    run = part(*saved, until=4)
    checkpoint = last_checkpoint(run)
    files = {path: path.read_bytes() for path in checkpoint.folder.rglob("*") if path.is_file()}
    lines = curve(run)
    for before, (zero, ranks), made, wanted, remedy in REFUSED:
        if before == saved:
            words = tiny.words("dynamics", run, engine__zero=zero)
            running = launcher.start(*words, ranks=ranks)
            assert running.codes()[0] == 2 and set(running.codes()) <= {2, 3}
            problem, _, proposed = running[0].said().partition("remedy: ")
            assert str(checkpoint.folder) in problem and made in problem and wanted in problem, problem
            assert remedy in proposed
            assert {path: path.read_bytes() for path in checkpoint.folder.rglob("*") if path.is_file()} == files
            assert curve(run) == lines
    assert_same_curve(part(*saved), left_alone)

"""With everything on that draws random numbers (noise, dropout, the Jacobian penalty), ranks and parts change nothing,
and a run that is stopped goes on as if it had not been."""

import signal

import pytest
from tiny_runs import bits, curve, worst_deviation

NOISE = {"loss__noise__neighbors": 4, "loss__noise__sigma": 0.1, "loss__noise__drift": 0.02,
         "loss__noise__ramp_steps": 5, "dynamics__dropout": 0.2}  # fmt: skip
JACOBIAN = {"loss__jacobian__weight": 0.5, "loss__jacobian__every": 2, "loss__jacobian__decay_steps": 20}
DIFFERENCE, VJP = (NOISE | JACOBIAN | {"loss__jacobian__estimator": name} for name in ("finite_difference", "vjp"))


@pytest.mark.parametrize("settings", [
    {"engine__zero": None, **DIFFERENCE}, {"engine__zero": 3, **DIFFERENCE}, {"engine__zero": None, **VJP},
    pytest.param({"engine__zero": 1, **DIFFERENCE}, marks=pytest.mark.slow),
    pytest.param({"engine__zero": 2, **VJP}, marks=pytest.mark.slow),
])  # fmt: skip
def test_two_processes_that_accumulate_learn_what_one_learns(train, settings):
    """A micro-batch of one clip, so that some have none to penalise."""
    one = train("dynamics", 1, **{**settings, "engine__zero": None})
    two = train("dynamics", 2, engine__micro_batch=1, **settings)
    assert worst_deviation(two, one) < 1e-5
    lines = [[line for line in curve(run) if "jacobian" in line] for run in (one, two)]
    assert len(lines[0]) == 10 and all(line["jacobian"] > 0 for line in lines[0])
    assert worst_deviation(one, train("dynamics", 1)) > 1e-3  # it was on


KEEP_NONE = """
import whale.zero
render = whale.zero.render
def rendered(*arguments):
    found = render(*arguments)
    found["zero_optimization"] |= {"stage3_param_persistence_threshold": 0, "stage3_model_persistence_threshold": 0}
    return found
whale.zero.render = rendered
"""


@pytest.mark.parametrize("recompute", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_weights_that_are_put_away_are_there_for_both_passes_and_for_validation(
    tiny, launcher, train, tmp_path, recompute
):
    """Small weights ZeRO 3 keeps on every rank, and all of these are small; here it may keep none."""
    words = tiny.words("dynamics", tmp_path / "run", engine__zero=3, engine__recompute=recompute, **DIFFERENCE)
    running = launcher.start(*words, ranks=2, before=KEEP_NONE)
    assert running.codes() == [0, 0], running.said()
    assert "stage3_param_persistence_threshold" in (tmp_path / "run/deepspeed.json").read_text()
    one = train("dynamics", 1, engine__zero=None, **DIFFERENCE)
    assert worst_deviation(tmp_path / "run", one) < 1e-5
    found, expected = ([line for line in curve(run) if "val/imagined_psnr" in line] for run in (tmp_path / "run", one))
    assert len(found) == 2 and found[0].keys() == expected[0].keys()
    for line, same in zip(found, expected, strict=True):
        assert line == pytest.approx(same, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("settings", [DIFFERENCE, VJP], ids=["finite_difference", "vjp"])
def test_stopped_and_started_again_it_ends_the_same(tiny, launcher, train, tmp_path, settings):
    words = tiny.words("dynamics", tmp_path / "run", engine__zero=None, **settings)
    running = launcher.start(*words, ranks=1, pause_at=5)
    running.until_paused()
    running.send(signal.SIGTERM, 0)
    assert running.go_on().codes() == [75]
    launcher.run(*words, ranks=1)
    assert bits(tmp_path / "run") == bits(train("dynamics", 1, engine__zero=None, **settings))

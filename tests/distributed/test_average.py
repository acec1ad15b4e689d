"""The moving average of the weights: the same however it is trained, exact over a restart, and what is exported."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import bits, curve, last_checkpoint

from whale.checkpoint import read_average

AVERAGED = {"optim__ema_decay": 0.9}
BACK_ENDS = [None, 0, 1, 2, 3]


def average_of(run) -> dict[str, torch.Tensor]:
    tensors, updates = read_average(last_checkpoint(run).folder)
    assert updates == 10
    return tensors


@pytest.mark.parametrize("zero", BACK_ENDS)
def test_two_processes_average_what_one_averages(train, zero):
    one = train("dynamics", 1, **AVERAGED)
    two = train("dynamics", 2, engine__zero=zero, engine__micro_batch=1, **AVERAGED)
    mine, theirs = average_of(two), average_of(one)
    assert all(value.allclose(theirs[name], rtol=1e-4, atol=1e-6) for name, value in mine.items())
    trained = load_file(last_checkpoint(two).folder / "model.safetensors")
    assert mine.keys() == trained.keys()
    moved = [name for name, value in trained.items() if not value.equal(mine[name])]
    assert moved and all(name.startswith(("dynamics.", "behavior.")) for name in moved)
    runs = (one, two, train("dynamics", 1))
    same, validated, other = ([line for line in curve(run) if "loss" not in line] for run in runs)
    assert validated == [pytest.approx(line, rel=1e-4) for line in same]
    assert validated != [pytest.approx(line, rel=1e-4) for line in other]


@pytest.mark.parametrize("zero", BACK_ENDS)
def test_the_average_does_not_touch_training(train, zero):
    with_it, without = train("dynamics", 2, engine__zero=zero, **AVERAGED), train("dynamics", 2, engine__zero=zero)
    runs = [[line for line in curve(run) if "loss" in line] for run in (with_it, without)]
    assert runs[0] == runs[1]
    weights = [load_file(last_checkpoint(run).folder / "model.safetensors") for run in (with_it, without)]
    assert all(value.equal(weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("zero", BACK_ENDS)
def test_a_stopped_run_goes_on_with_the_same_average(tiny, launcher, train, tmp_path, zero):
    words = tiny.words("dynamics", tmp_path, engine__zero=zero, **AVERAGED)
    running = launcher.start(*words, ranks=2, pause_at=6)
    running.until_paused()
    running.send(signal.SIGTERM, 0)
    assert running.go_on().codes() == [75, 75], running.said()
    launcher.run(*words, ranks=2)
    assert bits(tmp_path) == bits(train("dynamics", 2, engine__zero=zero, **AVERAGED))


def test_another_number_of_processes_goes_on_with_the_average(tiny, launcher, train, tmp_path):
    words = tiny.words("dynamics", tmp_path, engine__zero=2, engine__reshard=True, **AVERAGED)
    running = launcher.start(*words, ranks=2, pause_at=6)
    running.until_paused()
    running.send(signal.SIGTERM, 0)
    assert running.go_on().codes() == [75, 75], running.said()
    launcher.run(*words)
    left_alone = average_of(train("dynamics", 1, **AVERAGED))
    assert all(v.allclose(left_alone[k], rtol=1e-4, atol=1e-6) for k, v in average_of(tmp_path).items())


def test_the_average_is_exported(train):
    run = train("tokenizer", 1, **AVERAGED)
    exported, average = load_file(run / "export/model.safetensors"), average_of(run)
    assert exported.keys() == average.keys() and all(value.equal(average[name]) for name, value in exported.items())
    assert json.loads((run / "export/config.json").read_text())["training"]["figures"]["psnr"] > 0

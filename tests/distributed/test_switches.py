"""Recomputation and compilation: how a step is computed, and not what is learned."""

import signal

import pytest
from safetensors.torch import load_file
from tiny_runs import bits, last_checkpoint, losses, worst_deviation

BACK_ENDS = [None, 0, 1, 2, 3]


@pytest.mark.parametrize("zero", [None, 2, 3])
def test_recomputation_is_exact_on_two_processes(train, zero):
    plain, again = (train("dynamics", 2, engine__zero=zero, engine__recompute=on) for on in (False, True))
    assert losses(plain) == losses(again)
    assert bits(plain) == bits(again)


def test_a_run_goes_on_with_recomputation(tiny, launcher, train, tmp_path):
    running = launcher.start(*tiny.words("dynamics", tmp_path), pause_at=5)
    running.until_paused()
    running.send(signal.SIGTERM)
    assert running.go_on().codes() == [75]
    launcher.run(*tiny.words("dynamics", tmp_path, engine__recompute=True))
    assert bits(tmp_path) == bits(train("dynamics", 1))


@pytest.mark.slow
@pytest.mark.parametrize("zero", BACK_ENDS)
def test_compiled_blocks_learn_the_same(tiny, launcher, train, tmp_path, zero):
    settings = {"engine__zero": zero, "engine__compile": True}
    compiled, plain = train("dynamics", 2, **settings), train("dynamics", 2, engine__zero=zero)
    assert losses(compiled) != losses(plain)  # it is compiled
    assert worst_deviation(compiled, plain) < 1e-5
    names = [load_file(last_checkpoint(run).folder / "model.safetensors").keys() for run in (compiled, plain)]
    assert names[0] == names[1]
    running = launcher.start(*tiny.words("dynamics", tmp_path, **settings), ranks=2, pause_at=6)
    running.until_paused()
    running.send(signal.SIGTERM)
    assert running.go_on().codes() == [75, 75], running.said()
    launcher.run(*tiny.words("dynamics", tmp_path, **settings), ranks=2)
    assert bits(tmp_path) == bits(compiled)


@pytest.mark.slow
def test_compilation_with_recomputation_and_the_tokenizer(train):
    settings = {"engine__compile": True, "engine__recompute": True}
    assert worst_deviation(train("tokenizer", 1, **settings), train("tokenizer", 1)) < 1e-5


@pytest.mark.slow
def test_without_a_compiler_it_says_so(tiny, launcher, tmp_path):
    cache = str(tmp_path / "cache")
    before = f"os.environ |= {{'PATH': '/absent', 'TORCHINDUCTOR_CACHE_DIR': {cache!r}}}"
    running = launcher.start(*tiny.words("dynamics", tmp_path / "run", engine__compile=True), before=before)
    assert running.codes() == [2], running.said()
    problem, _, remedy = running.said().partition("remedy: ")
    assert "torch.compile does not work here: " in problem and "engine.compile=false" in remedy

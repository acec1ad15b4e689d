"""Two processes learn what one learns: the loss of every step, for every back end and every task of training."""

import pytest
from tiny_runs import curve, losses, worst_deviation

BACK_ENDS = [None, 0, 1, 2, 3]
FP32_DEVIATION, BF16_DEVIATION = 1e-5, 1e-3
# At batches of 4 and the rate of the other tests, rounding to bf16 grows to 2e-3 in 50 steps, whatever the back end.
BF16 = {"engine__precision": "bf16", "data__batch": 16, "optim__lr": 5e-4}


@pytest.mark.parametrize("zero", BACK_ENDS)
def test_two_processes_learn_what_one_learns_in_fp32(train, zero):
    one, two = train("dynamics", 1), train("dynamics", 2, engine__zero=zero)
    assert worst_deviation(two, one) < FP32_DEVIATION
    validations = [[line for line in curve(run) if "loss" not in line] for run in (one, two)]
    assert validations[1] == [pytest.approx(line, rel=1e-4) for line in validations[0]]
    assert [line["samples"] for line in curve(two) if "samples" in line] == [4 * (n + 1) for n in range(10)]


@pytest.mark.parametrize("zero", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_learns_in_bf16(train, zero):
    one, two = (train("dynamics", ranks, engine__zero=zero, **BF16) for ranks in (1, 2))
    assert worst_deviation(two, one) < BF16_DEVIATION
    assert worst_deviation(two, train("dynamics", 1)) > FP32_DEVIATION  # it is bf16


@pytest.mark.parametrize("settings", [
    pytest.param({}, marks=pytest.mark.slow), {"engine__zero": 2, "engine__offload_optimizer": True},
    pytest.param({"engine__zero": 3, "engine__offload_optimizer": True}, marks=pytest.mark.slow),
])  # fmt: skip
def test_accumulation_and_offload_change_nothing(train, settings):
    micro = train("dynamics", 2, engine__micro_batch=1, **settings)
    assert worst_deviation(micro, train("dynamics", 1)) < FP32_DEVIATION


@pytest.mark.parametrize("zero", [None, 1])
def test_the_codebook_moves_by_what_all_ranks_see(train, zero):
    one, two = train("tokenizer", 1), train("tokenizer", 2, engine__zero=zero, engine__micro_batch=1)
    assert worst_deviation(two, one) < FP32_DEVIATION
    revived = [[line["revived_codes"] for line in curve(run) if "revived_codes" in line] for run in (one, two)]
    assert revived[0] == revived[1] and sum(revived[0]) > 3


def test_adaptation_is_the_same_with_two_processes(train):
    one, two = train("world_model", 1), train("world_model", 2, engine__zero=1)
    assert worst_deviation(two / "tokenizer", one / "tokenizer") < FP32_DEVIATION
    assert worst_deviation(two, one) < FP32_DEVIATION


@pytest.mark.slow
@pytest.mark.parametrize("task", ["dynamics", "tokenizer", "world_model"])
@pytest.mark.parametrize("zero", BACK_ENDS)
def test_fifty_steps_in_fp32(train, task, zero):
    one, two = train(task, 1, loop__steps=50), train(task, 2, engine__zero=zero, loop__steps=50)
    assert len(losses(two)) == 50
    assert worst_deviation(two, one) < FP32_DEVIATION


@pytest.mark.slow
@pytest.mark.parametrize("zero", BACK_ENDS)
def test_fifty_steps_in_bf16(train, zero):
    one, two = (train("dynamics", ranks, engine__zero=zero, loop__steps=50, **BF16) for ranks in (1, 2))
    assert len(losses(two)) == 50
    assert worst_deviation(two, one) < BF16_DEVIATION


@pytest.mark.slow
@pytest.mark.parametrize("zero", BACK_ENDS)
def test_four_processes_that_accumulate(train, zero):
    one = train("dynamics", 1, data__batch=8)
    assert worst_deviation(train("dynamics", 4, engine__zero=zero, engine__micro_batch=1, data__batch=8), one) < 1e-5

import types

import pytest
import torch

from whale import throughput
from whale.throughput import Throughput, matmul_rate


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test sets, in place of the machine's."""
    now = [100.0]
    monkeypatch.setattr(throughput, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_figures_of_a_known_clock(clock):
    def batches():
        while True:
            clock[0] += 0.5  # waiting for data
            yield "batch"

    speed = Throughput(frames=40, tokens_per_frame=64, flops_per_frame=1e9, peak=1e11)
    source = batches()
    for _ in range(4):
        assert speed.next_of(source) == "batch"
        clock[0] += 1.5
        with speed.stalled():
            clock[0] += 3.0
    figures = speed.figures()
    assert figures["frames_per_sec"] == pytest.approx(20)  # 160 frames in 8 seconds: a stall is not training
    assert figures["tokens_per_sec"] == pytest.approx(20 * 64)
    assert figures["mfu"] == pytest.approx(20 * 1e9 / 1e11)
    assert figures["data_wait"] == pytest.approx(0.25)
    assert figures["checkpoint_stall_sec"] == pytest.approx(12)

    clock[0] += 1000.0
    speed.restart()  # after a validation
    speed.next_of(source)
    clock[0] += 1.5
    figures = speed.figures()
    assert figures["frames_per_sec"] == pytest.approx(20)
    assert figures["checkpoint_stall_sec"] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rate_is_that_of_a_matrix_product(dtype):
    assert 1e8 < matmul_rate(torch.device("cpu"), dtype) < 1e14


def test_measuring_draws_no_random_numbers():
    before = torch.random.get_rng_state()
    matmul_rate(torch.device("cpu"), torch.float32)
    assert torch.random.get_rng_state().equal(before)

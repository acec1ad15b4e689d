"""A recorded frame step gives what the same kernels give when they are launched one by one."""

import numpy as np
import pytest
import torch
from tiny_model import random_model

from whale import cuda_graph
from whale.rollout import Imagination
from whale.uncertainty import Retracing

STEPS = 14


def imagine(device: str, every: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Tokens, and all else, of episodes that are retraced at every n-th frame, restarted if at all, and forked."""
    model, rng = random_model().to(device), np.random.default_rng(0)
    frames = rng.integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    actions = rng.uniform(-0.05, 0.05, (STEPS, 6, 7)).astype(np.float32)
    imagination = Imagination(
        model, frames, actions[:3, :3].swapaxes(0, 1), "tabletop", 0.2, retracing=Retracing(every=every)
    )
    tokens, values = [], []
    for t in range(STEPS):
        if t == 5 and every == 1:
            imagination.restart([1], frames[:1], actions[:3, :1].swapaxes(0, 1))
        if t == 9:
            imagination = imagination.fork(2)
        step = imagination.step(actions[t, : len(imagination.returns_B)])
        tokens.append(step.tokens)
        values += [step.reward, step.terminated, imagination.frame()]
        if step.uncertainty is not None:
            values.append(step.uncertainty.divergence_mean.cpu().numpy())
    return tokens, values


@pytest.mark.gpu
@pytest.mark.parametrize(("eager_calls", "every"), [(0, 1), (0, 2), (1, 2)])
def test_replay_equals_eager(monkeypatch, eager_calls, every):
    recorded = []
    record = cuda_graph.record
    monkeypatch.setattr(cuda_graph, "record", lambda *call: recorded.append(call) or record(*call))
    monkeypatch.setattr(cuda_graph, "EAGER_CALLS", 10**9)
    eager_tokens, eager_values = imagine("cuda", every)
    assert not recorded
    monkeypatch.setattr(cuda_graph, "EAGER_CALLS", eager_calls)
    tokens, values = imagine("cuda", every)
    assert len(recorded) == 2 * every  # where `every` is 2 with and without retracing, before and after the fork
    assert all(np.array_equal(a, b) for a, b in zip(tokens, eager_tokens, strict=True))
    for a, b in zip(values, eager_values, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def test_a_cpu_records_nothing(monkeypatch):
    monkeypatch.setattr(cuda_graph, "EAGER_CALLS", 0)
    tokens, _ = imagine("cpu", 1)
    assert len(tokens) == STEPS and not torch.cuda.is_initialized()

"""A recorded frame step gives what the same kernels give when they are launched one by one."""

import contextlib

import numpy as np
import pytest
import torch
from tiny_model import random_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whale import cuda_graph
from whale.rollout import Imagination
from whale.token_rollout import TokenRollout
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


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: keeps the operations of a call with their very tensors, and does them again.

    An operation that a GPU would have to be waited for is an error.
    """

    WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "lift_fresh")

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, given=(), options=None):
        assert function._schema.name.removeprefix("aten::") not in self.WAITS
        out = function(*given, **(options or {}))
        self.operations.append((function, given, options or {}, out))
        return out

    def replay(self):
        with torch.no_grad():
            for function, given, options, out in self.operations:
                for mine, again in zip(tree_leaves(out), tree_leaves(function(*given, **options)), strict=True):
                    if isinstance(mine, torch.Tensor) and mine.data_ptr() != again.data_ptr():
                        mine.copy_(again)


@pytest.mark.parametrize(("eager_calls", "every"), [(0, 1), (0, 2), (1, 2)])
def test_what_a_graph_would_do_equals_eager(monkeypatch, eager_calls, every):
    """No value is looked at, and no tensor that a graph would read or change is replaced by another."""
    recorded = []

    def record(function, inputs):
        static = [x.clone() for x in inputs]
        function(*static)
        with Tape() as tape:
            out = function(*static)
        recorded.append(tape)
        return tape, static, out

    eager = imagine("cpu", every)
    monkeypatch.setattr(cuda_graph, "record", record)
    monkeypatch.setattr(cuda_graph, "EAGER_CALLS", eager_calls)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(
        TokenRollout, "predict", lambda self, *given: torch.no_grad()(self._replayed)(self._predict, *given)
    )
    found = imagine("cpu", every)
    assert len(recorded) == 2 * every
    for part in range(2):
        assert all(np.array_equal(a, b) for a, b in zip(found[part], eager[part], strict=True))


def test_a_cpu_records_nothing(monkeypatch):
    monkeypatch.setattr(cuda_graph, "EAGER_CALLS", 0)
    tokens, _ = imagine("cpu", 1)
    assert len(tokens) == STEPS and not torch.cuda.is_initialized()

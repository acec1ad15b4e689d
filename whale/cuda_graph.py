"""CUDA graphs: what a function does on the GPU, recorded once and then replayed as a whole.

A frame step of one episode is hundreds of small kernels, and to launch them one by one takes longer than to run them.
`torch.compile` keeps its own graphs from functions that change their inputs in place, as the frame caches are changed.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Out = TypeVar("Out", bound=tuple[Tensor, ...])

EAGER_CALLS = 16
"""Calls of each shape before it is recorded, which costs a few: plans of a dozen frames, forked and thrown away, are
over before."""


class Replayed:
    """Calls a function of tensors on one GPU, and replays it once it has run a few times.

    The function gives a named tuple of tensors. It may read and change other tensors, the same in every call, in place,
    if to call it twice is to call it once. It must not look at a value on the CPU.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[torch.Size, ...], int] = {}
        self._graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def __call__(self, function: Callable[..., Out], *inputs: Tensor) -> Out:
        """What the function gives, in tensors of the caller's own."""
        shapes = tuple(x.shape for x in inputs)
        if shapes not in self._graphs:
            self._calls[shapes] = self._calls.get(shapes, 0) + 1
            if self._calls[shapes] <= EAGER_CALLS:
                return function(*inputs)
            with torch.cuda.device(inputs[0].device):
                self._graphs[shapes] = record(function, inputs)
        graph, static, out = self._graphs[shapes]
        for mine, given in zip(static, inputs, strict=True):
            mine.copy_(given)
        graph.replay()
        return type(out)(*(value.clone() for value in out))  # the next replay writes over them


def record(function: Callable[..., Out], inputs: tuple[Tensor, ...]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Out]:
    """A graph of one call, the tensors that a replay reads its inputs from, and those that it leaves its results in."""
    static = [x.clone() for x in inputs]
    # Libraries set themselves up in a first call, which must not be recorded, on a stream other than the default.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may go on using the GPU
        out = function(*static)
    return graph, static, out

"""Regional compilation: every transformer block is compiled by itself, in place, so that parameters keep their names.

A stack of equal blocks compiles once. Only training is compiled: imagination and validation come in many shapes.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from whale.errors import UserError
from whale.models.st_transformer import SpatialTemporalTransformer


def stacks(module: nn.Module) -> list[SpatialTemporalTransformer]:
    """Every transformer inside a module."""
    return [one for one in module.modules() if isinstance(one, SpatialTemporalTransformer)]


def compile_blocks(module: nn.Module, device: torch.device) -> None:
    """Compile the blocks of all transformers in `module` for `device`, when they are first called.

    Raises:
        UserError: torch.compile does not work here (no compiler, for one).
    """
    # Sizes stay constants: with sizes as variables, what is compiled would depend on what was seen before a restart.
    try:
        torch.compile(torch.neg, dynamic=False)(torch.ones(8, device=device))
    except RuntimeError as error:
        cause = next((line for line in str(error).splitlines() if line), type(error).__name__)
        raise UserError(
            f"engine.compile is on, and torch.compile does not work here: {cause}",
            "install a C++ compiler (for a GPU, triton too), or set engine.compile=false",
        ) from None
    for stack in stacks(module):
        for block in stack.blocks:
            block.compile(dynamic=False)


@contextlib.contextmanager
def uncompiled(active: bool) -> Iterator[None]:
    """Within, compiled blocks run as they are written, where `active` is set."""
    with torch.compiler.set_stance("force_eager") if active else contextlib.nullcontext():
        yield

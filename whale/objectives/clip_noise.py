"""Random numbers of a training step, clip by clip.

What is drawn for a clip depends on the seed, the step and the clip's position in the run alone. So a loss is the same
however a global batch is shared out over ranks and micro-batches, and a checkpoint need not hold any generator.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def seeded_generator(*parts: int) -> torch.Generator:
    """A CPU generator that is a pure function of some integers."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class ClipNoise:
    """Draws for B clips; each call goes on where the last ended.

    Args:
        seed, step: of the run.
        position_B: places of the clips in the run, int64 [B] in host memory, as `whale.clips.loader` gives them.
        device: where the draws are wanted.
    """

    def __init__(self, seed: int, step: int, position_B: Tensor, device: torch.device | str = "cpu"):
        self.step = step
        self._seed, self._positions, self._device = seed, position_B.tolist(), device
        self._generators = [seeded_generator(seed, step, position) for position in self._positions]

    def uniform(self, *shape: int) -> Tensor:
        """float32 [B, *shape] in [0, 1)."""
        return self._draw(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        """float32 [B, *shape] of mean 0 and variance 1."""
        return self._draw(torch.randn, shape)

    def one_in(self, every: int) -> list[int]:
        """Rows of the clips that are chosen, one of each `every` consecutive positions, anew each step."""
        groups = {position // every for position in self._positions}
        chosen = {group: self._chosen(group, every) for group in groups}
        return [row for row, at in enumerate(self._positions) if at % every == chosen[at // every]]

    def _chosen(self, group: int, every: int) -> int:
        generator = seeded_generator(self._seed, self.step, group, every)
        return int(torch.randint(every, (), generator=generator))

    def _draw(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        drawn = torch.stack([draw(shape, generator=generator) for generator in self._generators])
        if torch.device(self._device).type == "cuda":  # from other memory, the copy waits for all work before it
            drawn = drawn.pin_memory()
        return drawn.to(self._device, non_blocking=True)

"""A stack of spatial-temporal blocks with one cache per layer."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from whale.models.layers import FrameCache, RMSNorm, SpatialTemporalBlock


class SpatialTemporalTransformer(nn.Module):
    """`depth` blocks on [B, T, S, D]; the first `temporal_depth` of them (all by default) look back in time.

    `has_space=False` leaves out attention inside a frame, for streams of one vector a frame. With `recompute` set,
    training keeps the input of each block alone and computes the rest again in the backward pass (Chen et al., 2016).
    """

    def __init__(
        self, width: int, heads: int, depth: int, band: int, temporal_depth: int | None = None, has_space: bool = True
    ):
        super().__init__()
        timed = depth if temporal_depth is None else temporal_depth
        self.blocks = nn.ModuleList(
            SpatialTemporalBlock(width, heads, band if i < timed else None, has_space) for i in range(depth)
        )
        self.norm = RMSNorm(width)
        self.recompute = False

    def new_cache(self) -> list[FrameCache]:
        """An empty cache for a stream of frames."""
        return [FrameCache() for _ in self.blocks]

    def forward(
        self,
        x_BTSD: Tensor,
        start: int = 0,
        cache: list[FrameCache] | None = None,
        keep_K3BD: Tensor | None = None,
    ) -> Tensor:
        """[B, T, S, D] -> [B, T, S, D]; with a cache, x continues the stream at frame `start`.

        `keep_K3BD` scales the channels of what each layer of each of the K blocks adds.
        """
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            arguments = (x_BTSD, start, cache[i] if cache else None, None if keep_K3BD is None else keep_K3BD[i])
            if recompute:  # nothing in a block draws random numbers
                x_BTSD = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTSD = block(*arguments)
        return self.norm(x_BTSD)

"""A stack of spatial-temporal blocks."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from whale.models.frame_cache import FrameCache, Sight, whole_clip
from whale.models.layers import RMSNorm, SpatialTemporalBlock


class SpatialTemporalTransformer(nn.Module):
    """`depth` blocks on [B, T, S, D]; the first `temporal_depth` of them (all by default) look back in time.

    `has_space=False` leaves out attention inside a frame, for streams of one vector a frame. With `recompute` set,
    training keeps the input of each block alone and computes the rest again in the backward pass (Chen et al., 2016).
    """

    def __init__(
        self, width: int, heads: int, depth: int, band: int, temporal_depth: int | None = None, has_space: bool = True
    ):
        super().__init__()
        self.band, self.head_dim = band, width // heads
        self.timed = depth if temporal_depth is None else temporal_depth
        self.blocks = nn.ModuleList(SpatialTemporalBlock(width, heads, i < self.timed, has_space) for i in range(depth))
        self.norm = RMSNorm(width)
        self.recompute = False

    def new_cache(self, batch: int, back: int = 0, copies: int = 0) -> FrameCache:
        """An empty cache for streams of frames; see there."""
        return FrameCache(batch, self.band, self.head_dim, self.norm.weight.device, back, copies)

    def forward(
        self, x_BTSD: Tensor, sight: Sight | None = None, keep_K3BD: Tensor | None = None, last: bool = False
    ) -> Tensor:
        """[B, T, S, D] -> [B, T, S, D]: a clip from its first frame on, or frames that see by `sight`.

        `keep_K3BD` scales the channels of what each layer of each of the K blocks adds. With `last`, of the last frame
        only, [B, 1, S, D]: blocks that do not look back are spared the others.
        """
        sight = sight or whole_clip(x_BTSD.shape[1], self.band, self.head_dim, x_BTSD.device)
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for i, block in enumerate(self.blocks):
            if last and i == self.timed:
                x_BTSD = x_BTSD[:, -1:]
            keep = None if keep_K3BD is None else keep_K3BD[i]
            arguments = (x_BTSD, sight.mask, sight.turn, sight.of_layer(i), keep)
            if recompute:  # nothing in a block draws random numbers
                x_BTSD = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x_BTSD = block(*arguments)
        return self.norm(x_BTSD[:, -1:] if last else x_BTSD)

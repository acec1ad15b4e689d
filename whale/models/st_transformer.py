"""A stack of spatial-temporal blocks with one cache per layer."""

from torch import Tensor, nn

from whale.models.layers import FrameCache, RMSNorm, SpatialTemporalBlock


class SpatialTemporalTransformer(nn.Module):
    """`depth` blocks on [B, T, S, D]; the first `temporal_depth` of them (all by default) look back in time.

    `has_space=False` leaves out attention inside a frame, for streams of one vector a frame.
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

    def new_cache(self) -> list[FrameCache]:
        """An empty cache for a stream of frames."""
        return [FrameCache() for _ in self.blocks]

    def forward(self, x_BTSD: Tensor, start: int = 0, cache: list[FrameCache] | None = None) -> Tensor:
        """[B, T, S, D] -> [B, T, S, D]; with a cache, x continues the stream at frame `start`."""
        for i, block in enumerate(self.blocks):
            x_BTSD = block(x_BTSD, start, cache[i] if cache else None)
        return self.norm(x_BTSD)

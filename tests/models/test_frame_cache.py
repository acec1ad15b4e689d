"""A layer with a ring against the same layer on whole clips."""

import pytest
import torch

from whale.models.frame_cache import FrameCache, whole_clip
from whale.models.st_transformer import SpatialTemporalTransformer

BAND = 3


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    return SpatialTemporalTransformer(8, 2, depth=2, band=BAND).double().requires_grad_(False)


def clip(batch=2, frames=12):
    return torch.randn(batch, frames, 3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def stream(transformer, cache, x, first):
    """Frames first, first + 1, ... one at a time."""
    frames = range(first, x.shape[1])
    return torch.cat([transformer(x[:, t : t + 1], cache.enter(torch.full((len(x), 1), t))) for t in frames], 1)


@pytest.mark.parametrize("back", [0, 2])
@pytest.mark.parametrize("begun", [0, 1, 3, 7])
def test_a_stream_equals_the_whole_clip(transformer, begun, back):
    x, cache = clip(), transformer.new_cache(2, back)
    whole = transformer(x)
    if begun:
        torch.testing.assert_close(transformer(x[:, :begun], cache.begin(begun)), whole[:, :begun])
    torch.testing.assert_close(stream(transformer, cache, x, begun), whole[:, begun:])


def test_the_ring_stays_where_it_is_and_does_not_grow(transformer):
    x, cache = clip(), transformer.new_cache(2)
    stream(transformer, cache, x[:, :1], 0)
    where = [one.data_ptr() for layer in cache.layers for one in layer]
    assert all(one.shape[0] == BAND for layer in cache.layers for one in layer)
    stream(transformer, cache, x, 1)
    assert [one.data_ptr() for layer in cache.layers for one in layer] == where


def test_copies_see_what_was_before_them_and_leave_no_trace(transformer):
    """Copies of frames t - 1 and t - 3 beside frame t: each is the last frame of its own past."""
    x, cache = clip(), transformer.new_cache(2, back=3, copies=2)
    fresh = torch.randn(2, 12, 2, 3, 8, dtype=torch.float64)
    transformer(x[:, :3], cache.begin(3))
    for t in range(3, 12):
        fed = torch.cat([x[:, t : t + 1], fresh[:, t]], 1)
        found = transformer(fed, cache.enter(torch.tensor([[t, t - 1, t - 3]] * 2)))
        for k, back in enumerate((0, 1, 3)):
            past = torch.cat([x[:, : t - back], fed[:, k : k + 1]], 1)
            torch.testing.assert_close(found[:, k], transformer(past)[:, -1])


def test_every_stream_has_its_own_clock(transformer):
    """One is replaced at its sixth frame by another that begins then; the first does not notice, to the bit."""
    x, cache = clip(frames=14), transformer.new_cache(2)
    stream(transformer, cache, x[:, :6], 0)
    undisturbed, other = cache.rows(torch.arange(2)), transformer.new_cache(1)
    transformer(x[1:, 6:8], other.begin(2))
    cache.put(torch.tensor([1]), other)
    whole = transformer(x[1:, 6:])
    for t in range(6, 12):
        fed = torch.stack([x[0, t : t + 1], x[1, t + 2 : t + 3]])
        found = transformer(fed, cache.enter(torch.tensor([[t], [t - 4]])))
        assert torch.equal(found[0], transformer(fed, undisturbed.enter(torch.tensor([[t], [t]])))[0])
        torch.testing.assert_close(found[1, 0], whole[0, t - 4])


def test_rows_are_copies(transformer):
    x, cache = clip(), transformer.new_cache(2, back=1, copies=1)
    transformer(x[:, :4], cache.begin(4))
    other = cache.rows(torch.tensor([1, 1, 0]))
    found = transformer(x[[1, 1, 0], 4:5], other.enter(torch.full((3, 1), 4)))
    torch.testing.assert_close(found[:, 0], transformer(x[[1, 1, 0], :5])[:, -1])
    torch.testing.assert_close(stream(transformer, cache, x, 4), transformer(x)[:, 4:])  # the first did not notice


@pytest.mark.parametrize("start", [10_000, 100_000])
def test_late_frames_are_as_early_ones(transformer, start):
    """In float32, at the same distances: only rounding of the rotated values differs."""
    transformer, x = transformer.float(), clip(1, 8).float()
    caches = [FrameCache(1, BAND, 4, x.device) for _ in range(2)]
    for t in range(8):
        early, late = (
            transformer(x[:, t : t + 1], cache.enter(torch.tensor([[first + t]])))
            for cache, first in zip(caches, (0, start), strict=True)
        )
    torch.testing.assert_close(late, early, atol=5e-6, rtol=0)


def test_a_clip_sees_by_its_band():
    sight = whole_clip(5, BAND, 4, torch.device("cpu"))
    assert sight.mask.tolist() == [[q - BAND < k <= q for k in range(5)] for q in range(5)]
    assert sight.remember is None and sight.turn.dtype == torch.float64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from whale.metrics.frames import MSE_FLOOR, PSNR_CAP_DB, psnr, ssim, token_accuracy, token_flip_rate, token_flips


def random_frames(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def reference_ssim(x, y):
    """SSIM of one frame by scipy's filters, cropped to where the window fits."""
    values = []
    for channel in range(3):
        a, b = x[..., channel].astype(float), y[..., channel].astype(float)

        def blur(image):
            return gaussian_filter(image, 1.5, truncate=5 / 1.5, mode="constant")[5:-5, 5:-5]

        ma, mb = blur(a), blur(b)
        va, vb, cov = blur((a) ** 2) - ma**2, blur(b**2) - mb**2, blur(a * b) - ma * mb
        c1, c2 = 6.5025, 58.5225
        values.append(((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())
    return np.mean(values)


def test_published_values_of_zeros_against_ones():
    zeros, ones = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    assert psnr(zeros, ones) == 0.0
    assert ssim(zeros, ones) == pytest.approx(9.999e-05, rel=1e-4)


def test_psnr_closed_form_and_cap():
    frame = random_frames(0, 16, 16) // 2
    assert psnr(frame + np.uint8(10), frame) == pytest.approx(10 * np.log10(255**2 / 100))
    assert psnr(frame, frame) == PSNR_CAP_DB == pytest.approx(10 * np.log10(255**2 / MSE_FLOOR))
    one_pixel = frame.copy()
    one_pixel[0, 0, 0] += 1
    assert psnr(one_pixel, frame) <= PSNR_CAP_DB


def test_psnr_and_ssim_map_over_leading_dimensions():
    x, y = random_frames(1, 2, 3, 16, 20), random_frames(2, 2, 3, 16, 20)
    for metric in (psnr, ssim):
        one_by_one = [[metric(x[i, j], y[i, j]) for j in range(3)] for i in range(2)]
        np.testing.assert_allclose(metric(x, y), one_by_one, rtol=1e-12)


@given(seed=st.integers(0, 1000), noise=st.integers(1, 80), height=st.integers(11, 40), width=st.integers(11, 40))
def test_ssim_against_scipy(seed, noise, height, width):
    x = random_frames(seed, height, width)
    rng = np.random.default_rng(seed + 1)
    y = np.clip(x + rng.normal(0, noise, x.shape), 0, 255).astype(np.uint8)
    assert ssim(x, y) == pytest.approx(reference_ssim(x, y), abs=1e-10)
    assert ssim(x, y) == pytest.approx(ssim(y, x), abs=1e-12)


def test_ssim_of_a_frame_with_itself_is_one():
    x = random_frames(3, 64, 64)
    assert ssim(x, x) == pytest.approx(1.0, abs=1e-12)


def test_wrong_dtype_shape_and_small_frames_are_refused():
    x = random_frames(0, 16, 16)
    with pytest.raises(ValueError, match="need uint8"):
        psnr(x.astype(np.float32), x)
    with pytest.raises(ValueError, match="one shape"):
        psnr(x[None], x)
    with pytest.raises(ValueError, match="smaller than"):
        ssim(x[:8, :8], x[:8, :8])


def test_only_tokens_over_still_patches_count_as_flips():
    frames = np.zeros((3, 16, 24, 3), np.uint8)
    frames[1:, 0, 8, 0] = 9  # the patch in row 0, column 1 moves between frames 0 and 1
    tokens = np.zeros((3, 6), np.int64)
    tokens[1:, 1] = 5  # its token follows: no flip
    assert token_flips(frames, tokens) == (0, 11)
    tokens[2, 3] = 7  # row 1, column 0 stands still, its token does not
    assert token_flips(frames, tokens) == (1, 11)
    assert token_flip_rate(frames, tokens) == pytest.approx(1 / 11)


def test_a_tolerance_lets_noise_stand_still():
    frames = np.zeros((2, 8, 16, 3), np.uint8)
    frames[1, :, :8], frames[1, :, 8:] = 1, 3  # patches that change by 1 and by 3 levels
    tokens = np.array([[0, 0], [1, 1]])
    assert [token_flips(frames, tokens, tolerance) for tolerance in (0.5, 1, 3)] == [(0, 0), (1, 1), (2, 2)]


def test_tokens_that_are_no_patch_grid_are_refused():
    with pytest.raises(ValueError, match="no grid"):
        token_flips(np.zeros((2, 16, 16, 3), np.uint8), np.zeros((2, 5), np.int64))


def test_a_patch_is_found_where_it_lies():
    """Changing one pixel moves exactly the patch that a plain loop over rows and columns finds."""
    for y, x in ((0, 0), (7, 8), (8, 7), (15, 23)):
        frames = np.zeros((2, 16, 24, 3), np.uint8)
        frames[1, y, x, 2] = 1
        tokens = np.stack([np.zeros(6, np.int64), np.ones(6, np.int64)])
        tokens[1, (y // 8) * 3 + x // 8] = 0
        assert token_flips(frames, tokens) == (5, 5)


def test_token_accuracy():
    assert token_accuracy(np.array([[1, 2, 3, 4], [1, 1, 1, 1]]), np.array([1, 2, 0, 0])).tolist() == [0.5, 0.25]


@given(seed=st.integers(0, 1000))
def test_psnr_against_the_definition(seed):
    x, y = random_frames(seed, 3, 17, 12), random_frames(seed + 1, 3, 17, 12)
    mse = ((x.astype(float) - y.astype(float)) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(psnr(x, y), 10 * np.log10(255**2 / mse), rtol=1e-12)

"""LPIPS against the published values, on the published images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from whale.errors import UserError
from whale.metrics.perceptual import LAYERS, LPIPS

SHARED = Path(__file__).parents[3] / "shared/data"
WEIGHTS = SHARED / "weights/lpips-alexnet.npz"
published = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the published weights are not here")


def random_weights(file: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for i, (out, into, side) in enumerate(LAYERS):
        kernel = rng.normal(size=(side, side, into, out)) / (side * into**0.5)
        arrays[f"AlexNet_0/Conv_{i}/kernel"] = kernel.astype(np.float32)
        arrays[f"AlexNet_0/Conv_{i}/bias"] = np.zeros(out, np.float32)
        arrays[f"NetLinLayer_{i}/Conv_0/kernel"] = rng.random((1, 1, out, 1)).astype(np.float32)
    np.savez(file, **arrays)
    return file


def image(name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(SHARED / "lpips_ref_images" / name).convert("RGB"))) / 127.5 - 1


@published
def test_published_values():
    lpips = LPIPS(WEIGHTS)
    reference = image("ex_ref.png")[None]
    assert lpips(image("ex_p0.png")[None], reference).item() == pytest.approx(0.7219, abs=1e-4)
    assert lpips(image("ex_p1.png")[None], reference).item() == pytest.approx(0.1376, abs=1e-4)
    black = -torch.ones(1, 64, 64, 3)
    assert lpips(black, -black).item() == pytest.approx(0.8140, abs=1e-4)


def test_distance_is_symmetric_zero_for_equal_frames_and_of_each_frame_alone(tmp_path):
    lpips, (x, y) = LPIPS(random_weights(tmp_path / "w.npz")), torch.rand(2, 3, 32, 40, 3) * 2 - 1
    together = lpips(x, y)
    assert (together > 0).all() and lpips(x, x).equal(torch.zeros(3))
    torch.testing.assert_close(lpips(y, x), together)
    torch.testing.assert_close(torch.cat([lpips(x[i : i + 1], y[i : i + 1]) for i in range(3)]), together)


def test_gradient_is_finite_even_where_no_feature_fires_and_lowers_the_distance(tmp_path):
    lpips = LPIPS(random_weights(tmp_path / "w.npz"))
    for i in (0, 2):
        lpips.get_buffer(f"bias_{i}").fill_(-1.0)  # many places without any feature
    x, y = torch.randn(2, 40, 40, 3).mul(0.3).requires_grad_(), torch.zeros(2, 40, 40, 3)
    before = lpips(x, y).sum()
    (gradient,) = torch.autograd.grad(before, x)
    assert gradient.isfinite().all() and gradient.abs().max() > 0
    assert lpips(x - 1e-3 * gradient / gradient.norm(), y).sum() < before
    assert not list(lpips.parameters()) and not lpips.state_dict()


def test_wrong_files_and_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match="no file"):
        LPIPS(tmp_path / "absent.npz")
    file = random_weights(tmp_path / "w.npz")
    (tmp_path / "cut.npz").write_bytes(file.read_bytes()[:1000])
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with np.load(file) as stored:
        shorter = {name: array[..., :-1] if "NetLin" not in name else array for name, array in stored.items()}
    np.savez(tmp_path / "narrow.npz", **shorter)
    for name in ("cut.npz", "other.npz", "narrow.npz"):
        with pytest.raises(UserError, match=name):
            LPIPS(tmp_path / name)
    with pytest.raises(ValueError, match="31 px"):
        LPIPS(file)(torch.zeros(1, 16, 16, 3), torch.zeros(1, 16, 16, 3))

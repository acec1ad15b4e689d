"""The video tokenizer: an autoencoder over p x p patches (WHALE, section 4; what is ours: docs/method.md).

The encoder is frame-wise and, unless it is given a reach, patch-local: a token is a pure function of its own patch, so
any clip start gives the same tokens, and a token never flips where its pixels stand still. The decoder sees the last R
token frames (one block with temporal attention of band R, then spatial blocks), so decoding streams, and any frame
needs R token frames only.

Legend: B batch, T frames, S tokens a frame (G x G grid), C code dim, D width, P = 3 p^2 values a patch.
"""

import hashlib

import torch
from torch import Tensor, nn

from whale.config import configclass
from whale.models.frame_cache import Sight
from whale.models.fsq import FiniteScalarQuantizer, FSQConfig
from whale.models.layers import LocalStem, ResidualSwiGLU, check_heads, full_precision
from whale.models.linear import Linear
from whale.models.local_encoder import LocalEncoder
from whale.models.quantizer import VectorQuantizer, VQConfig
from whale.models.st_transformer import SpatialTemporalTransformer
from whale.pretrained import PretrainedModel


@configclass
class TokenizerConfig:
    """Size of the video tokenizer."""

    image_px: int = 64
    """Height and width of a frame."""
    patch_px: int = 8
    """p: side of the square patch behind one token."""
    quantizer: VQConfig | FSQConfig = VQConfig()
    """The codebook: learned codes, or `levels` for a fixed grid (FSQ)."""
    encoder_depth: int = 1
    """Residual feed-forward layers of the encoder."""
    encoder_width: int | None = None
    """Width of the encoder's layers, with as many heads as the decoder; null: they work on code vectors."""
    encoder_reach: int = 0
    """How many patches around its own a token depends on; needs `encoder_width`."""
    decoder_depth: int = 2
    """Blocks of the decoder."""
    width: int = 128
    """D."""
    heads: int = 4
    """N."""
    decoder_frames: int = 4
    """R: token frames that the decoder sees."""

    def __post_init__(self) -> None:
        """Check that patches tile the frame, that they span the codes, and the heads."""
        if self.image_px % self.patch_px:
            raise ValueError(f"image_px {self.image_px} is not a multiple of patch_px {self.patch_px}")
        if self.quantizer.dim > 3 * self.patch_px**2:
            raise ValueError(f"quantizer.dim {self.quantizer.dim} exceeds the {3 * self.patch_px**2} values of a patch")
        check_heads(self.width, self.heads)
        check_heads(self.encoder_width or self.width, self.heads)
        if self.encoder_reach < 0 or (self.encoder_reach and self.encoder_width is None):
            raise ValueError(f"encoder_reach {self.encoder_reach} must not be negative, and needs an encoder_width")

    @property
    def grid(self) -> int:
        """G: tokens a side."""
        return self.image_px // self.patch_px

    @property
    def tokens_per_frame(self) -> int:
        """S."""
        return self.grid**2


class VideoTokenizer(PretrainedModel):
    """Frames to tokens and back."""

    KIND = "tokenizer"
    CONFIG = TokenizerConfig
    config: TokenizerConfig

    def __init__(self, config: TokenizerConfig):
        super().__init__(config)
        patch_values, dim, width = 3 * config.patch_px**2, config.quantizer.dim, config.width
        self.patch_to_code = nn.Linear(patch_values, dim)
        # Either encoder adds nothing at first, so that codes start as components of patches.
        layers: list[ResidualSwiGLU] = []
        self.local_encoder: LocalEncoder | None = None
        if config.encoder_width is None:
            layers = [ResidualSwiGLU(dim) for _ in range(config.encoder_depth)]
        else:
            self.local_encoder = LocalEncoder(
                patch_values, dim, config.encoder_width, config.heads, config.encoder_depth, config.grid,
                config.encoder_reach,
            )  # fmt: skip
        for layer in layers:
            nn.init.zeros_(layer.mlp.out.weight)
        self.encoder = nn.Sequential(*layers)
        self.quantizer: VectorQuantizer | FiniteScalarQuantizer
        if isinstance(config.quantizer, FSQConfig):
            self.quantizer = FiniteScalarQuantizer(config.quantizer)
        else:
            self.quantizer = VectorQuantizer(config.quantizer)
        self.code_to_width = LocalStem(dim, width)
        self.position_SD = nn.Parameter(0.02 * torch.randn(config.tokens_per_frame, width))
        self.decoder = SpatialTemporalTransformer(
            width, config.heads, config.decoder_depth, config.decoder_frames, temporal_depth=1
        )
        # Starts as a plain linear decoder of the code; the transformer learns the residual.
        self.code_to_patch = Linear(dim, patch_values)
        self.width_to_patch = Linear(width, patch_values)
        nn.init.zeros_(self.width_to_patch.weight)
        nn.init.zeros_(self.width_to_patch.bias)

    def patchify(self, frames_NHW3: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> float [N, S, P] in [-1, 1]."""
        size, grid = self.config.patch_px, self.config.grid
        if frames_NHW3.shape[1:] != (self.config.image_px, self.config.image_px, 3):
            raise ValueError(f"frames are {tuple(frames_NHW3.shape)}, this tokenizer takes {self.config.image_px} px")
        x = frames_NHW3.to(self.patch_to_code.weight.dtype) / 127.5 - 1
        return x.unflatten(1, (grid, size)).unflatten(3, (grid, size)).transpose(2, 3).flatten(3).flatten(1, 2)

    def unpatchify(self, patches_NSP: Tensor) -> Tensor:
        """Float [N, S, P] in [-1, 1] -> float [N, H, W, 3] in [0, 255], not rounded."""
        size, grid = self.config.patch_px, self.config.grid
        x = patches_NSP.unflatten(1, (grid, grid)).unflatten(3, (size, size, 3)).transpose(2, 3)
        return (x.flatten(3, 4).flatten(1, 2) + 1) * 127.5

    def encode_patches(self, patches_NSP: Tensor) -> Tensor:
        """Float [N, S, P] -> code vectors before quantisation [N, S, C]."""
        codes_NSC = self.patch_to_code(patches_NSP)
        if self.local_encoder is not None:
            codes_NSC = codes_NSC + self.local_encoder(patches_NSP)
        return self.quantizer.bound(self.encoder(codes_NSC))

    @torch.no_grad()
    def encode(self, frames_NHW3: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> tokens int64 [N, S], the same for a frame whatever stands beside it."""
        with full_precision(frames_NHW3):
            x_NSC = self.encode_patches(self.patchify(frames_NHW3))
        return self.quantizer.nearest(x_NSC.flatten(0, 1)).view(x_NSC.shape[:2])

    def decode_codes(self, codes_BTSC: Tensor, sight: Sight | None = None, last: bool = False) -> Tensor:
        """Code vectors [B, T, S, C] -> patches [B, T, S, P], or [B, 1, S, P] of the last frame only."""
        h_BTSD = self.decoder(self.code_to_width(codes_BTSC) + self.position_SD, sight, last=last)
        return self.code_to_patch(codes_BTSC[:, -h_BTSD.shape[1] :]) + self.width_to_patch(h_BTSD)

    def to_frames(self, patches_BTSP: Tensor) -> Tensor:
        """Patches [B, T, S, P] -> frames uint8 [B, T, H, W, 3]."""
        frames = self.unpatchify(patches_BTSP.flatten(0, 1)).round().clamp(0, 255).to(torch.uint8)
        return frames.unflatten(0, patches_BTSP.shape[:2])

    @torch.no_grad()
    def decode(self, tokens_BTS: Tensor) -> Tensor:
        """Tokens int64 [B, T, S] -> frames uint8 [B, T, H, W, 3]."""
        return self.to_frames(self.decode_codes(self.quantizer.codebook_VC[tokens_BTS]))

    @torch.no_grad()
    def decode_last(self, tokens_BTS: Tensor, sight: Sight) -> Tensor:
        """The last of T token frames, which see by a cache of the decoder, uint8 [B, H, W, 3].

        The frame after one that was decoded enters the cache alone; any other needs a window of R frames.
        """
        return self.to_frames(self.decode_codes(self.quantizer.codebook_VC[tokens_BTS], sight, last=True))[:, 0]

    @property
    def num_codes(self) -> int:
        """V."""
        return self.config.quantizer.num_codes

    @property
    def fingerprint(self) -> str:
        """Identity of the token language: sha256 of everything that turns pixels into tokens, 16 hex digits."""
        digest = hashlib.sha256(f"{self.config.image_px}/{self.config.patch_px}".encode())
        parts = [part for part in (self.patch_to_code, self.encoder, self.local_encoder) if part is not None]
        for tensor in [*(v for part in parts for v in part.state_dict().values()), self.quantizer.codebook_VC]:
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def initialise(self, frames_NHW3: Tensor, weight_NS: Tensor, generator: torch.Generator) -> None:
        """Start from principal components of patches and a k-means codebook; with FSQ, from components in its levels.

        The layers of the encoder still add nothing to them.

        Args:
            frames_NHW3: uint8 frames.
            weight_NS: how much each patch matters (its change in time), float [N, S].
            generator: source of the draws.
        """
        most = 2**24 // self.config.tokens_per_frame  # torch.multinomial takes no more categories
        frames_NHW3, weight_NS = frames_NHW3[:most], weight_NS[:most]
        patches_MP = self.patchify(frames_NHW3).flatten(0, 1)
        draw = torch.multinomial(weight_NS.flatten(), min(len(patches_MP), 40000), generator=generator)
        mean_P = patches_MP[draw].mean(0)
        _, scale_C, basis_PC = torch.pca_lowrank(patches_MP[draw] - mean_P, self.config.quantizer.dim, center=False)
        if isinstance(self.quantizer, FiniteScalarQuantizer):
            self._start_levels(self.quantizer, patches_MP[draw], mean_P, basis_PC)
            return
        # One scale for all components keeps distances between codes equal to distances between patches.
        gain = (len(draw) * self.config.quantizer.dim) ** 0.5 / scale_C.square().sum().sqrt()
        self.patch_to_code.weight.copy_(gain * basis_PC.T)
        self.patch_to_code.bias.copy_(-gain * basis_PC.T @ mean_P)
        self.code_to_patch.weight.copy_(basis_PC / gain)
        self.code_to_patch.bias.copy_(mean_P)
        self.quantizer.fit(self.patch_to_code(patches_MP), weight_NS.flatten(), generator)

    def _start_levels(
        self, quantizer: FiniteScalarQuantizer, patches_MP: Tensor, mean_P: Tensor, basis_PC: Tensor
    ) -> None:
        """Spread each component over its levels; decode by the best linear map from codes to patches."""
        # tanh(0.8 x / sigma) spreads a Gaussian evenly over (-1, 1), within a few per cent.
        gain_C = 0.8 / ((patches_MP - mean_P) @ basis_PC).std(0)
        self.patch_to_code.weight.copy_((basis_PC * gain_C).T)
        self.patch_to_code.bias.copy_(-mean_P @ basis_PC * gain_C - quantizer.shift_C)
        code_MC = quantizer.codebook_VC[quantizer.nearest(quantizer.bound(self.patch_to_code(patches_MP)))]
        design = torch.cat([code_MC, torch.ones_like(code_MC[:, :1])], 1)
        solution = torch.linalg.lstsq(design, patches_MP).solution
        self.code_to_patch.weight.copy_(solution[:-1].T)
        self.code_to_patch.bias.copy_(solution[-1])

"""How many floating-point operations a clip costs: the matrix products that the mathematics needs, 2 m n k each.

The count depends on sizes alone, not on how a layer is written. Attention counts the pairs inside its causal band
or its window: scores that are computed and masked away are work that a faster kernel leaves out, and MFU should not
reward them.
Elementwise work, norms, softmax and look-ups are not counted.

Legend: S tokens a frame, C code dim, D width, V codes, W band, T frames, P values of a patch, Z embedding dim.
"""

import itertools

from whale.actions import ACTION_DIM
from whale.models.behavior import BehaviorConfig
from whale.models.dynamics import ACTION_FEATURES
from whale.models.layers import swiglu_hidden
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig
from whale.models.world_model import WorldModelConfig


def forward_flops(config: WorldModelConfig | TokenizerConfig, frames: int) -> dict[str, float]:
    """FLOPs per frame of one forward pass over a clip of `frames` frames, by part.

    Of a world model: what a training step on token clips runs, behaviour (posterior and action decoder included) and
    dynamics; its tokenizer's own are `forward_flops(config.tokenizer, frames)`.
    """
    return _tokenizer(config, frames) if isinstance(config, TokenizerConfig) else _world_model(config, frames)


def training_flops(config: WorldModelConfig | TokenizerConfig, frames: int) -> float:
    """FLOPs per frame of forward and backward: a product has two in its gradient, the codebook's look-up none.

    Activations that are computed again (`recompute`) are not counted.
    """
    parts = forward_flops(config, frames)
    return 3 * sum(parts.values()) - 2 * parts.get("quantizer", 0.0)


def imagined_flops(config: WorldModelConfig) -> dict[str, float]:
    """FLOPs per imagined frame of an episode whose bands are full, by part: `latent` and, to see it, `decode`.

    Latent: the behaviour's prior, the dynamics, and the choice of the expected tokens (the expected code is
    probabilities times codes; a learned codebook is searched for the nearest, a grid rounds).
    """
    behavior, tokenizer, endless = config.behavior, config.tokenizer, 10**12
    tokens, choice = tokenizer.tokens_per_frame, _linear(tokenizer.quantizer.num_codes, tokenizer.quantizer.dim)
    dynamics = _world_model(config, endless)
    prior = _summary(behavior, tokenizer.quantizer.dim, tokens) + _prior(behavior, endless, config.dynamics.band)
    decode = _tokenizer(tokenizer, endless)
    return {
        "latent": sum(dynamics.values()) - dynamics["behavior"] + prior
        + tokens * choice * (2 if isinstance(tokenizer.quantizer, VQConfig) else 1),
        "decode": sum(decode.values()) - decode["encoder"] - decode["quantizer"],
    }  # fmt: skip


def keys_per_query(frames: int, band: int) -> float:
    """Mean number of frames that a frame of a clip sees in causal attention of width `band`."""
    seen = min(frames, band)
    return seen - seen * (seen - 1) / 2 / frames


def window_places(grid: int, reach: int) -> float:
    """Mean number of places of a grid at most `reach` rows and columns away from one, itself included."""
    near = sum(min(grid - 1, i + reach) - max(0, i - reach) + 1 for i in range(grid))
    return (near / grid) ** 2


def _linear(*widths: int) -> float:
    """One vector through linear layers of these widths."""
    return sum(2.0 * a * b for a, b in itertools.pairwise(widths))


def _swiglu(width: int) -> float:
    hidden = swiglu_hidden(width)
    return _linear(width, 2 * hidden) + _linear(hidden, width)


def _attention(width: int, keys: float) -> float:
    """One query position: projections, scores, weighted sum."""
    return _linear(width, 3 * width) + _linear(width, width) + 4 * width * keys


def _transformer(width: int, depth: int, timed: int, places: int, keys: float) -> dict[str, float]:
    """Per frame of `places` positions; the first `timed` of `depth` blocks look back at `keys` frames."""
    return {
        "spatial attention": depth * places * _attention(width, places),
        "temporal attention": timed * places * _attention(width, keys),
        "feed-forward": depth * places * _swiglu(width),
    }


def _tokenizer(config: TokenizerConfig, frames: int) -> dict[str, float]:
    tokens, dim, width, values = config.tokens_per_frame, config.quantizer.dim, config.width, 3 * config.patch_px**2
    blocks = _transformer(
        width, config.decoder_depth, min(1, config.decoder_depth), tokens, keys_per_query(frames, config.decoder_frames)
    )
    return {
        "encoder": tokens * _encoder(config, values),
        "quantizer": tokens * _linear(dim, config.quantizer.num_codes) * isinstance(config.quantizer, VQConfig),
        "stem": tokens * _linear(9 * dim, width),
        **blocks,
        "heads": tokens * (_linear(dim, values) + _linear(width, values)),
    }


def _encoder(config: TokenizerConfig, values: int) -> float:
    """Of one patch; a place of a window's attention sees as many as lie in the frame."""
    grid, reach, dim = config.grid, config.encoder_reach, config.quantizer.dim
    width, linear = config.encoder_width or dim, _linear(values, dim)
    if config.encoder_width:
        linear += _linear(values, width, dim)
    in_row = sum(min(place + reach, grid - 1) - max(place - reach, 0) + 1 for place in range(grid)) / grid
    return linear + (_attention(width, in_row**2) if reach else 0) + config.encoder_depth * _swiglu(width)


def _summary(config: BehaviorConfig, code_dim: int, tokens: int) -> float:
    return tokens * _linear(code_dim, config.token_dim) + _linear(tokens * config.token_dim, config.width)


def _prior(config: BehaviorConfig, frames: int, band: int) -> float:
    block = _attention(config.width, keys_per_query(frames, band)) + _swiglu(config.width)
    return _linear(ACTION_FEATURES, config.width) + config.depth * block + _linear(config.width, 2 * config.dim)


def _behavior(config: BehaviorConfig, code_dim: int, tokens: int, frames: int, band: int) -> float:
    width, dim = config.width, config.dim
    posterior = _linear(ACTION_FEATURES, width) + config.depth * _swiglu(width) + _linear(width, 2 * dim) / frames
    decoder = _linear(width + dim, width) + _swiglu(width) + _linear(width, ACTION_DIM)
    return _summary(config, code_dim, tokens) + _prior(config, frames, band) + posterior + decoder


def _world_model(config: WorldModelConfig, frames: int) -> dict[str, float]:
    tokens, quantizer = config.tokenizer.tokens_per_frame, config.tokenizer.quantizer
    codes, dim = quantizer.num_codes, quantizer.dim
    width, depth, band = config.dynamics.width, config.dynamics.depth, config.dynamics.band
    context = _linear(1, width) / frames
    if not config.dynamics.action_blind:
        context += _linear(ACTION_FEATURES, width, width) + _linear(config.behavior.dim, width)
    logits = _linear(width, codes) + _linear(width, dim) + _linear(dim, codes) + _linear(width, 1)
    return {
        "behavior": _behavior(config.behavior, dim, tokens, frames, band),
        "stem": tokens * _linear(9 * dim, width) + context,
        **_transformer(width, depth, depth, tokens + 1, keys_per_query(frames, band)),
        "heads": tokens * logits + _swiglu(width) + _linear(width, 2),
    }

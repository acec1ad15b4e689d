"""How well exported tokenizers show held-out frames beside a continuous autoencoder, and how steady their tokens are.

`tokenizer_psnr_over_taef2` is the difference in dB to TAEF2 on the same frames, mean over clips; `codebook_usage` the
share of codes that held-out tokens use; `token_flip_rate` the share of still patches whose token changes. Video codecs
leave few patches exactly still, so `token_flip_rate_tolerant` counts patches whose pixels change by no more than 1 of
255 in the mean. Trains nothing: give exported tokenizers and the pixel clips of the same recordings.
"""

from pathlib import Path

import numpy as np
import taef2
import torch
from record import parser, publish

from whale.clips.reader import ClipReader
from whale.eval.results import Figure
from whale.metrics.frames import psnr, token_flips
from whale.metrics.intervals import bootstrap_interval, mean_interval
from whale.models.tokenizer import VideoTokenizer

RUNS = Path("runs/franka_usb")
TOLERANCE = 1.0
"""Mean absolute change of a patch's pixels below which it stands still but for noise, of 255 levels."""

ENOUGH_TOKENS = 100_000
"""Of fewer, the share of codes in use says nothing."""


def held_out(folder: Path, count: int | None) -> list[np.ndarray]:
    """Frames uint8 [T, H, W, 3] of the first `count` held-out clips."""
    reader = ClipReader(folder, "val")
    return [reader.read(k).frames for k in range(len(reader))][:count]


def flip_figure(name: str, clips: list[np.ndarray], tokens: list[np.ndarray], tolerance: float) -> Figure:
    """Share of still patches whose token flips, with its interval over clips."""
    counted = np.array([token_flips(*pair, tolerance) for pair in zip(clips, tokens, strict=True)])

    def rate(drawn: np.ndarray) -> float:
        flips, still = counted[drawn].sum(0)
        return flips / max(still, 1)

    everyone, need = np.arange(len(counted)), {"at_most": 0.02}
    interval = bootstrap_interval(rate, len(counted), seed=0)
    return Figure(name, float(rate(everyone)), *interval, "share", int(counted[:, 1].sum()), need)


def measure(tokenizer: VideoTokenizer, clips: list[np.ndarray], more: list[np.ndarray],
            baseline: list[np.ndarray]) -> tuple[list[Figure], dict[str, float]]:
    """Figures of one tokenizer: PSNR on `clips`, beside their `baseline`; its codes on `more`."""
    suffix = f"_s{tokenizer.config.tokens_per_frame}"
    tokens = [tokenizer.encode(torch.from_numpy(clip)) for clip in clips]
    decoded = [tokenizer.decode(one[None])[0].numpy() for one in tokens]
    own, other = (np.array([psnr(*pair).mean() for pair in zip(images, clips, strict=True)])
                  for images in (decoded, baseline))
    more_tokens = [tokenizer.encode(torch.from_numpy(clip)).numpy() for clip in more]
    counts = np.bincount(np.concatenate(more_tokens).ravel(), minlength=tokenizer.num_codes)
    share = counts[counts > 0] / counts.sum()
    usage, enough = float((counts > 0).mean()), counts.sum() >= ENOUGH_TOKENS
    figures = [
        Figure(f"tokenizer_psnr_over_taef2{suffix}", float((own - other).mean()), *mean_interval(own - other, seed=0),
               "dB", len(clips), {"at_least": 0}),
        Figure(f"codebook_usage{suffix}", usage, usage, usage, "share", int(counts.sum()),
               {"at_least": 0.8} if enough else None),
        flip_figure(f"token_flip_rate{suffix}", more, more_tokens, 0.0),
        flip_figure(f"token_flip_rate_tolerant{suffix}", more, more_tokens, TOLERANCE),
    ]  # fmt: skip
    details = {"psnr": float(own.mean()), "psnr_taef2": float(other.mean()), "num_codes": tokenizer.num_codes,
               "perplexity": float(np.exp(-(share * np.log(share)).sum())),
               "parameters": sum(p.numel() for p in tokenizer.parameters())}  # fmt: skip
    return figures, details


def main() -> None:
    """Measure each tokenizer on the same frames; those to compare with go into the details alone."""
    flags = parser(__doc__)
    flags.add_argument("--clips", type=Path, default=RUNS / "clips", help="pixel clips, of which PSNR is measured")
    flags.add_argument("--more", type=Path, help="clips for usage and flips, as of a higher rate; default --clips")
    default = [RUNS / f"tokenizer_{tokens}/export" for tokens in (64, 256)]
    flags.add_argument("--tokenizers", type=Path, nargs="+", default=default, help="exported tokenizers")
    flags.add_argument("--compare", type=Path, nargs="*", default=[], help="exported tokenizers for the details alone")
    given = flags.parse_args()
    count = 2 if given.quick else None
    clips, more = held_out(given.clips, count), held_out(given.more or given.clips, count)
    baseline = [taef2.reconstruct(torch.from_numpy(clip)).numpy() for clip in clips]
    figures, details = [], {}
    for folder in [*given.tokenizers, *given.compare]:
        found, about = measure(VideoTokenizer.from_pretrained(folder), clips, more, baseline)
        details[str(folder)] = about | {figure.name: figure.value for figure in found}
        figures += found if folder in given.tokenizers else []
    frames = {"frames": sum(map(len, clips)), "frames_for_codes": sum(map(len, more))}
    publish("tokenizer", figures, {**frames, "tokenizers": details}, given.out)


if __name__ == "__main__":
    main()

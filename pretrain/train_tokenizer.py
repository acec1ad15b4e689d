"""`whale pretrain tokenizer`: train the video tokenizer on pixel clips and export it."""

from itertools import islice

import torch

from whale.checkpoint import load_weights_of, newest_sound
from whale.clips.loader import ClipLoader
from whale.config import to_values
from whale.data_record import data_record
from whale.errors import UserError
from whale.export import save_export
from whale.loop import Run, fit
from whale.models.tokenizer import VideoTokenizer
from whale.objectives.clip_noise import seeded_generator
from whale.objectives.tokenizer_loss import TokenizerObjective
from whale.pretrain.config import TrainTokenizerConfig
from whale.progress import say
from whale.ranks import Ranks, broadcast, join
from whale.runtime import seed_everything
from whale.validate import held_out_frames


def train_tokenizer(config: TrainTokenizerConfig) -> None:
    """Initialise by k-means, train, export to `<run>/export`."""
    with join(config.engine.device, config.run) as here:
        figures = _train(config, here)
        if here.is_main:
            _export(config, figures)


def _train(config: TrainTokenizerConfig, here: Ranks) -> dict[str, float]:
    seed_everything(config.loop.seed)
    loader = ClipLoader(config.data, "train", here.rank, here.world_size)
    size = config.model.image_px
    if loader.frame_shape != (size, size, 3):
        raise UserError(
            f"the clips are {loader.frame_shape} frames, the tokenizer is configured for {size} px pixel clips",
            "set model.image_px to the clips' size, or convert with another size_px; tokens cannot train a tokenizer",
        )
    model = VideoTokenizer(config.model)
    if not broadcast(here.is_main and newest_sound(config.run) is not None):  # a checkpoint would replace it
        _initialise(model, ClipLoader(config.data, "train"), config)
    objective = TokenizerObjective(model, config.loss, held_out_frames(config.data, config.validation_clips))
    run = Run("pretrain tokenizer", config.run, config.loop, config.optim, config.engine, config.tracker, config)
    return fit(objective, loader, here, run)


def _export(config: TrainTokenizerConfig, figures: dict[str, float]) -> None:
    model = VideoTokenizer(config.model)
    load_weights_of(config.run, config.loop.steps, model)
    training = {
        "step": config.loop.steps,
        "figures": figures,
        "config": to_values(config),
        **data_record(config.data),
    }
    save_export(config.run / "export", "tokenizer", model, config.model, training)
    say(f"exported {config.run / 'export'} (fingerprint {model.fingerprint}, PSNR {figures['psnr']:.2f} dB)")


def _initialise(model: VideoTokenizer, loader: ClipLoader, config: TrainTokenizerConfig) -> None:
    """Start the codebook on training frames, the same on every rank; what changes or is unusual weighs most."""
    count = max(1, config.initial_clips // config.data.batch)
    frames, weights = [], []
    for batch in islice(loader.batches(), count):
        clip_BTHW3 = batch["frames"][:, ::2]
        patches_BTSP = model.patchify(clip_BTHW3.flatten(0, 1)).unflatten(0, clip_BTHW3.shape[:2])
        change_BTS = torch.zeros(patches_BTSP.shape[:3])
        change_BTS[:, 1:] = (patches_BTSP[:, 1:] - patches_BTSP[:, :-1]).abs().mean(-1)
        valid_BT = batch["valid"][:, ::2]
        frames.append(clip_BTHW3[valid_BT])
        weights.append(change_BTS[valid_BT])
    patches_NSP = model.patchify(torch.cat(frames))
    # What stands still but is not always there (an object at rest) counts as what moves; the background a little.
    unusual_NS = (patches_NSP - patches_NSP.mean(0)).abs().mean(-1)
    generator = seeded_generator(config.loop.seed, -1)
    model.initialise(torch.cat(frames), torch.cat(weights) + unusual_NS + 0.01, generator)

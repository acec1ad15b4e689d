"""The recipe of adaptation: which weights come from the source model, which are fitted to the demonstrations.

1. The tokenizer keeps its encoder's basis; its codebook is fitted anew by k-means on the demonstrations and its weights
   trained on, so that new colours and views have codes. Codes stay points of the same space, and the dynamics read and
   score codes as points of that space, so their weights carry over; what they know per code moves to the nearest code.
2. Dynamics and behaviour start from the source (or from random weights, for the baseline) and are trained on.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from whale.clips.loader import ClipLoader
from whale.config import to_values
from whale.errors import UserError
from whale.export import save_export
from whale.finetune.config import AdaptTokenizerConfig, WorldModelAdaptationConfig
from whale.loop import fit, step_generator
from whale.models.dataset_card import DatasetCard, dataset_card, dataset_cards
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel
from whale.objectives.tokenizer_loss import TokenizerObjective
from whale.runtime import seed_everything
from whale.validate import held_out_frames


def adapt_tokenizer(config: WorldModelAdaptationConfig) -> VideoTokenizer:
    """The tokenizer for the demonstrations, as the configuration asks for it."""
    if config.tokenizer is None:
        return VideoTokenizer.from_pretrained(config.source)
    if isinstance(config.tokenizer, Path):
        return VideoTokenizer.from_pretrained(config.tokenizer)
    return _fit_tokenizer(config, config.tokenizer)


def _fit_tokenizer(config: WorldModelAdaptationConfig, recipe: AdaptTokenizerConfig) -> VideoTokenizer:
    tokenizer, run = VideoTokenizer.from_pretrained(config.source).train(), config.run / "tokenizer"
    loader = ClipLoader(replace(config.demos, frames=recipe.frames, batch=recipe.batch), "train")
    _refit_codebook(tokenizer, loader, recipe)  # a checkpoint, if there is a sound one, replaces it
    objective = TokenizerObjective(tokenizer, recipe.loss, held_out_frames(loader.config, recipe.validation_clips))
    figures = fit(objective, loader, run, recipe.loop, recipe.optim, config.engine, config.tracker, recipe)
    record = {"step": recipe.loop.steps, "figures": figures, "config": to_values(config)}
    save_export(run / "export", "tokenizer", tokenizer, tokenizer.config, record)
    return tokenizer.eval()


@torch.no_grad()
def _refit_codebook(tokenizer: VideoTokenizer, loader: ClipLoader, recipe: AdaptTokenizerConfig) -> None:
    """k-means on the demonstrations in the space of the source's encoder; what is unusual at its place weighs most."""
    count = max(1, loader.epoch_length // recipe.batch)
    frames = torch.cat([batch["frames"][batch["valid"]] for batch in islice(loader.batches(), count)])
    x_NSC = tokenizer.encode_patches(tokenizer.patchify(frames))
    unusual_NS = (x_NSC - x_NSC.mean(0)).square().mean(-1)
    generator = step_generator(recipe.loop.seed, -1, 0)
    tokenizer.quantizer.fit(x_NSC.flatten(0, 1), unusual_NS.flatten() + 0.01, generator)


def build_model(config: WorldModelAdaptationConfig, tokenizer: VideoTokenizer) -> WorldModel:
    """The model to adapt: the source's weights (or fresh ones) around the tokenizer."""
    source = WorldModel.from_pretrained(config.source)
    if tokenizer.config != source.config.tokenizer:
        raise UserError(
            f"the tokenizer {config.tokenizer} has another configuration than the one of {config.source}",
            "adapt the source's own tokenizer, so that its codes stay in the space that the dynamics know",
        )
    seed_everything(config.loop.seed)
    model = WorldModel(replace(source.config, datasets={**source.config.datasets, **_cards(config, source)}))
    if not config.from_scratch:
        model.load_state_dict({**source.state_dict(), **_renumbered(model, source, tokenizer)})
    model.tokenizer.load_state_dict(tokenizer.state_dict())
    return model.train()


def _renumbered(model: WorldModel, source: WorldModel, tokenizer: VideoTokenizer) -> dict[str, Tensor]:
    """Weights whose rows are numbered by dataset or by code, in the new numbering."""
    theirs = source.state_dict()
    # Embodiments are numbered by sorted name, so a new dataset may move the rows of the old ones.
    table = model.dynamics.embodiment.weight.detach().clone()
    table[[list(model.scales).index(name) for name in source.scales]] = theirs["dynamics.embodiment.weight"]
    # A code that was fitted anew takes the row of the source's code nearest to it.
    near_V = source.tokenizer.quantizer.nearest(tokenizer.quantizer.codebook_VC)
    heads = {name: theirs[name][near_V] for name in ("dynamics.free_head.weight", "dynamics.free_head.bias")}
    return {"dynamics.embodiment.weight": table, **heads}


def _cards(config: WorldModelAdaptationConfig, source: WorldModel) -> dict[str, DatasetCard]:
    folders = [s.folder for s in config.demos.sources]
    if config.statistics == "own":
        return dataset_cards(folders)
    names = {dataset_card(folder)[0] for folder in folders}
    if unknown := names - source.config.datasets.keys():
        raise UserError(
            f"statistics are to be the source's, but {config.source} was not trained on {', '.join(sorted(unknown))}",
            "set statistics: own",
        )
    return {name: source.config.datasets[name] for name in names}

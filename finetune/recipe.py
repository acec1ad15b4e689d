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

from whale.checkpoint import load_weights_of
from whale.clips.loader import ClipLoader
from whale.clips.merging import MergeConfig
from whale.config import to_values
from whale.data_record import data_record
from whale.errors import UserError
from whale.export import save_export
from whale.finetune.config import AdaptTokenizerConfig, WorldModelAdaptationConfig
from whale.loop import Run, fit
from whale.models.dataset_card import DatasetCard, dataset_card, dataset_cards
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel
from whale.objectives.clip_noise import seeded_generator
from whale.objectives.tokenizer_loss import TokenizerObjective
from whale.ranks import Ranks, wait_for_all
from whale.runtime import seed_everything
from whale.validate import held_out_frames


def adapt_tokenizer(config: WorldModelAdaptationConfig, here: Ranks) -> VideoTokenizer:
    """The tokenizer for the demonstrations, as the configuration asks for it."""
    if config.tokenizer is None:
        return VideoTokenizer.from_pretrained(config.source)
    if isinstance(config.tokenizer, Path):
        return VideoTokenizer.from_pretrained(config.tokenizer)
    return _fit_tokenizer(config, config.tokenizer, here)


def _fit_tokenizer(
    config: WorldModelAdaptationConfig, recipe: AdaptTokenizerConfig, here: Ranks
) -> VideoTokenizer:
    tokenizer, run = VideoTokenizer.from_pretrained(config.source).train(), config.run / "tokenizer"
    demos = replace(config.demos, frames=recipe.frames, batch=recipe.batch, merge=MergeConfig())
    loader = ClipLoader(demos, "train", here.rank, here.world_size)
    _refit_codebook(tokenizer, ClipLoader(demos, "train"), recipe)  # a checkpoint, if there is a sound one, replaces it
    objective = TokenizerObjective(tokenizer, recipe.loss, held_out_frames(loader.config, recipe.validation_clips))
    task = "finetune world_model (tokenizer)"
    figures = fit(
        objective, loader, here, Run(task, run, recipe.loop, recipe.optim, config.engine, config.tracker, recipe)
    )
    fitted = VideoTokenizer(tokenizer.config)
    load_weights_of(run, recipe.loop.steps, fitted)
    record = {
        "step": recipe.loop.steps, "figures": figures, "config": to_values(config), **data_record(loader.config)
    }  # fmt: skip
    if here.is_main:
        save_export(run / "export", "tokenizer", fitted, fitted.config, record)
    fitted.record = record
    wait_for_all()  # before anyone reads the export, or prunes what another still reads
    return fitted.eval()


@torch.no_grad()
def _refit_codebook(tokenizer: VideoTokenizer, loader: ClipLoader, recipe: AdaptTokenizerConfig) -> None:
    """k-means on the demonstrations in the space of the source's encoder; what is unusual at its place weighs most."""
    count = max(1, loader.epoch_length // recipe.batch)
    frames = torch.cat([batch["frames"][batch["valid"]] for batch in islice(loader.batches(), count)])
    x_NSC = tokenizer.encode_patches(tokenizer.patchify(frames))
    unusual_NS = (x_NSC - x_NSC.mean(0)).square().mean(-1)
    generator = seeded_generator(recipe.loop.seed, -1)
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


def _check_types(config: WorldModelAdaptationConfig, cards: dict[str, DatasetCard], source: WorldModel) -> None:
    """A model that has never met an action type knows nothing of what its seven slots then mean."""
    known = sorted({card.action_type for card in source.config.datasets.values()})
    types = {name: card.action_type for name, card in cards.items()}
    strange = [f"{name!r} has {kind} actions" for name, kind in types.items() if kind not in known]
    if strange and not config.from_scratch:
        raise UserError(
            f"{', '.join(strange)}; {config.source} was trained on {', '.join(known)} alone",
            "convert the demonstrations to one of these, pretrain on data of their type, or set from_scratch: true",
        )


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
        cards = dataset_cards(folders)
        _check_types(config, cards, source)
        return cards
    found = dict(dataset_card(folder) for folder in folders)
    if unknown := found.keys() - source.config.datasets.keys():
        raise UserError(
            f"statistics are to be the source's, but {config.source} was not trained on {', '.join(sorted(unknown))}",
            "set statistics: own",
        )
    theirs = {name: source.config.datasets[name] for name in found}
    for name, card in found.items():
        if card.actions != theirs[name].actions:
            raise UserError(
                f"statistics are to be the source's, but {name!r} has {card.actions}, and what {config.source} was "
                f"trained on has {theirs[name].actions}",
                "convert the demonstrations with the registry entry of the source's data, or set statistics: own",
            )
    return theirs

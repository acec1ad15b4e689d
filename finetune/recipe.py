"""The recipe of adaptation: which weights come from the source model, which are fitted to the demonstrations.

1. The tokenizer keeps its encoder's basis; its codebook is fitted anew by k-means on the demonstrations and its weights
   trained on, so that new colours and views have codes. Codes stay points of the same space, and the dynamics read and
   score codes as points of that space: that is why their weights carry over to a new codebook.
2. Dynamics and behaviour start from the source (or from random weights, for the baseline) and are trained on.
"""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from whale.clips.loader import ClipLoader
from whale.config import to_values
from whale.errors import UserError
from whale.export import save_export
from whale.finetune.config import AdaptTokenizerConfig, WorldModelAdaptationConfig
from whale.loop import fit, step_generator
from whale.models.dataset_card import DatasetCard, dataset_card
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel
from whale.objectives.tokenizer_loss import TokenizerObjective
from whale.runtime import seed_everything


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
    held_out = next(ClipLoader(replace(config.demos, frames=recipe.frames, batch=recipe.batch), "val").batches())
    if not (run / "checkpoints").exists():
        count = max(1, sum(loader.sizes) // recipe.batch)
        frames = torch.cat([batch["frames"][batch["valid"]] for batch in islice(loader.batches(), count)])
        x_MC = tokenizer.encode_patches(tokenizer.patchify(frames)).flatten(0, 1).detach()
        change_M = (x_MC - x_MC.view(len(frames), -1, x_MC.shape[-1]).mean(0).repeat(len(frames), 1)).square().mean(-1)
        tokenizer.quantizer.fit(x_MC, change_M + 0.01, step_generator(recipe.loop.seed, -1, 0))
    objective = TokenizerObjective(tokenizer, recipe.loss, held_out["frames"])
    figures = fit(objective, loader, run, recipe.loop, recipe.optim, config.engine, config.tracker, recipe)
    record = {"step": recipe.loop.steps, "figures": figures, "config": to_values(config)}
    save_export(run / "export", "tokenizer", tokenizer, tokenizer.config, record)
    return tokenizer.eval()


def build_model(config: WorldModelAdaptationConfig, tokenizer: VideoTokenizer) -> WorldModel:
    """The model to adapt: the source's weights (or fresh ones) around the tokenizer."""
    source = WorldModel.from_pretrained(config.source)
    cards = {**source.config.datasets, **dict(_card(config, source, s.folder) for s in config.demos.sources)}
    seed_everything(config.loop.seed)
    model = WorldModel(replace(source.config, tokenizer=tokenizer.config, datasets=cards))
    if not config.from_scratch:
        own, theirs = model.state_dict(), source.state_dict()
        rows = [list(model.scales).index(name) for name in source.scales]
        # Embodiments are numbered by sorted name, so a new dataset may move the rows of the old ones.
        table = own["dynamics.embodiment.weight"].clone()
        table[rows] = theirs["dynamics.embodiment.weight"]
        model.load_state_dict({**theirs, "dynamics.embodiment.weight": table})
    model.tokenizer.load_state_dict(tokenizer.state_dict())
    return model.train()


def _card(config: WorldModelAdaptationConfig, source: WorldModel, folder: Path) -> tuple[str, DatasetCard]:
    name, own = dataset_card(folder)
    if config.statistics == "own":
        return name, own
    if name not in source.config.datasets:
        raise UserError(
            f"statistics are to be the source's, but {config.source} was not trained on {name!r}",
            "set statistics: own",
        )
    return name, source.config.datasets[name]

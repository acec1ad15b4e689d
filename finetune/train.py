"""`whale finetune world_model`: adapt an exported world model to a few demonstrations."""

from itertools import islice

from whale.clips.loader import ClipLoader
from whale.clips.reader import ClipReader
from whale.config import to_values
from whale.errors import UserError
from whale.export import save_export
from whale.finetune.config import WorldModelAdaptationConfig
from whale.finetune.recipe import adapt_tokenizer, build_model
from whale.loop import fit
from whale.objectives.dynamics_loss import DynamicsObjective
from whale.progress import say


def adapt_world_model(config: WorldModelAdaptationConfig) -> None:
    """Fit the tokenizer, adapt dynamics and behaviour, export to `<run>/export`. Tokens are made as clips are read."""
    for source in config.demos.sources:
        if (made_by := ClipReader(source.folder, "train").manifest.tokenizer) is not None:
            raise UserError(
                f"{source.folder} holds token clips (tokenizer {made_by}); adaptation fits the tokenizer to pixels",
                "name the folder of the pixel clips",
            )
    model = build_model(config, adapt_tokenizer(config))
    loader = ClipLoader(config.demos, "train", scales=model.scales)
    held_out = list(islice(ClipLoader(config.demos, "val", scales=model.scales).batches(), config.validation_batches))
    objective = DynamicsObjective(model, config.loss, held_out)
    figures = fit(objective, loader, config.run, config.loop, config.optim, config.engine, config.tracker, config)
    data = {str(s.folder): ClipReader(s.folder, "train").manifest.hash for s in config.demos.sources}
    record = {"step": config.loop.steps, "figures": figures, "config": to_values(config), "data": data}
    save_export(config.run / "export", "world_model", model, model.config, record)
    say(f"exported {config.run / 'export'} (adapted to {sum(loader.sizes)} clips)")

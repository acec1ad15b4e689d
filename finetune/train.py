"""`whale finetune world_model`: adapt an exported world model to a few demonstrations."""

from whale.checkpoint import WEIGHTS, load_weights_of, sha256_file
from whale.clips.loader import ClipLoader
from whale.clips.reader import ClipReader
from whale.config import to_values
from whale.data_record import data_record
from whale.errors import UserError
from whale.export import read_config, save_export
from whale.finetune.config import WorldModelAdaptationConfig
from whale.finetune.recipe import adapt_tokenizer, build_model
from whale.hub import find_export
from whale.loop import Run, claim, fit
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.objectives.jacobian import check_engine
from whale.progress import say
from whale.ranks import join
from whale.validate import read_held_out


def adapt_world_model(config: WorldModelAdaptationConfig) -> None:
    """Fit the tokenizer, adapt dynamics and behaviour, export to `<run>/export`. Tokens are made as clips are read."""
    for source in config.demos.sources:
        if (made_by := ClipReader(source.folder, "train").manifest.tokenizer) is not None:
            raise UserError(
                f"{source.folder} holds token clips (tokenizer {made_by}); adaptation fits the tokenizer to pixels",
                "name the folder of the pixel clips",
            )
    source_config = read_config(find_export(config.source), ("world_model",), WorldModelConfig)
    band, size = source_config.dynamics.band, source_config.tokenizer.image_px
    if config.demos.frames < 2 * band:
        raise UserError(
            f"demos.frames is {config.demos.frames}, shorter than two bands of {band} frames of {config.source}",
            f"choose demos.frames >= {2 * band}, so that training sees full windows",
        )
    found = ClipLoader(config.demos, "train").frame_shape
    if found != (size, size, 3):
        raise UserError(
            f"the demonstrations are {found} frames, {config.source} takes {size} px",
            f"convert them with size_px={size}",
        )
    check_engine(config.loss.jacobian, config.engine.zero, config.engine.recompute)
    with join(config.engine.device, config.run) as here:
        claim(config.run, config, here)
        tokenizer = adapt_tokenizer(config, here)
        model = build_model(config, tokenizer)
        loader = ClipLoader(config.demos, "train", here.rank, here.world_size, model.scales)
        held_out = read_held_out(config.demos, model, config.validation, here, config.engine.micro_batch)
        objective = DynamicsObjective(model, config.loss, *held_out, config.validation)
        run = Run("finetune world_model", config.run, config.loop, config.optim, config.engine, config.tracker, config)
        figures = fit(objective, loader, here, run)
        if here.is_main:
            _export(config, WorldModel(model.config), tokenizer, figures)
            say(f"exported {config.run / 'export'} (adapted to {sum(loader.sizes)} clips)")


def _export(
    config: WorldModelAdaptationConfig, model: WorldModel, tokenizer: VideoTokenizer, figures: dict[str, float]
) -> None:
    load_weights_of(config.run, config.loop.steps, model)
    record = {
        "step": config.loop.steps,
        "figures": figures,
        "config": to_values(config),
        "adapted_from": None if config.from_scratch else sha256_file(find_export(config.source) / WEIGHTS),
        "tokenizer": tokenizer.record,
        **data_record(config.demos),
    }
    save_export(config.run / "export", "world_model", model, model.config, record)

"""`whale pretrain dynamics` and `whale pretrain export`: train dynamics and behaviour on token clips; publish them."""

import json
from pathlib import Path

from whale.checkpoint import damage, load_weights_of
from whale.checkpoint_folder import Checkpoint, find_checkpoints
from whale.clips.loader import ClipLoader
from whale.clips.reader import ClipReader
from whale.config import load_config, to_values
from whale.data_record import data_record
from whale.errors import UserError
from whale.estimate import parameter_counts
from whale.export import save_export
from whale.loop import Run, fit
from whale.models.dataset_card import dataset_cards
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.objectives.jacobian import check_engine
from whale.pretrain.config import ExportConfig, TrainDynamicsConfig
from whale.progress import say
from whale.ranks import join
from whale.runtime import seed_everything
from whale.tracker import METRICS_FILE, validation_at
from whale.validate import read_held_out


def build_model(config: TrainDynamicsConfig) -> WorldModel:
    """A world model with the exported tokenizer in it and fresh dynamics for the datasets of the sources.

    Raises:
        UserError: the tokens were made by another tokenizer.
    """
    tokenizer = VideoTokenizer.from_pretrained(config.tokenizer)
    for source in config.data.sources:
        made_by = ClipReader(source.folder, "train").manifest.tokenizer
        if made_by != tokenizer.fingerprint:
            raise UserError(
                f"the clips in {source.folder} were made by tokenizer {made_by}, "
                f"{config.tokenizer} is {tokenizer.fingerprint}",
                "tokenize the pixel clips with this tokenizer, or name the one that made the tokens",
            )
    cards = dataset_cards([source.folder for source in config.data.sources])
    seed_everything(config.loop.seed)
    model = WorldModel(WorldModelConfig(
        tokenizer=tokenizer.config, dynamics=config.dynamics, behavior=config.behavior, datasets=cards
    ))  # fmt: skip
    model.tokenizer.load_state_dict(tokenizer.state_dict())
    model.tokenizer.record = tokenizer.record
    return model


def train_dynamics(config: TrainDynamicsConfig) -> None:
    """Train, then export to `<run>/export`."""
    if config.data.frames < 2 * config.dynamics.band:
        raise UserError(
            f"data.frames is {config.data.frames}, shorter than two bands of {config.dynamics.band} frames",
            "choose data.frames >= 2 * dynamics.band, so that training sees full windows",
        )
    check_engine(config.loss.jacobian, config.engine.zero, config.engine.recompute)
    with join(config.engine.device, config.run) as here:
        model = build_model(config)
        loader = ClipLoader(config.data, "train", here.rank, here.world_size, model.scales)
        held_out = read_held_out(config.data, model, config.validation, here, config.engine.micro_batch)
        objective = DynamicsObjective(model, config.loss, *held_out, config.validation)
        run = Run("pretrain dynamics", config.run, config.loop, config.optim, config.engine, config.tracker, config)
        fit(objective, loader, here, run)
        if here.is_main:
            export(ExportConfig(run=config.run, out=config.run / "export"))


def export(config: ExportConfig) -> None:
    """Publish a checkpoint of a dynamics run as a folder that `WorldModel.from_pretrained` loads."""
    training = load_config(TrainDynamicsConfig, [config.run / "config.yaml"])
    checkpoint = _choose(config.run, config.step)
    model = build_model(training)
    load_weights_of(config.run, checkpoint.step, model)
    order = json.loads((checkpoint.folder / "state.json").read_text())["order"]
    record = {
        "step": checkpoint.step,
        "order": order,
        "config": to_values(training),
        "figures": validation_at(config.run / METRICS_FILE, checkpoint.step),
        "tokenizer": model.tokenizer.record,
        **data_record(training.data),
    }
    save_export(config.out, "world_model", model, model.config, record)
    millions = sum(parameter_counts(model).values()) / 1e6
    say(f"exported step {checkpoint.step} to {config.out} ({millions:.2f}M parameters)")


def _choose(run: Path, step: int | None) -> Checkpoint:
    found = find_checkpoints(run / "checkpoints")
    chosen = [c for c in found if step in (None, c.step)]
    if not chosen:
        raise UserError(
            f"{run} has no complete checkpoint" + (f" of step {step}" if step is not None else ""),
            f"complete are the steps {[c.step for c in found]}; name the step in loop.milestones to keep it",
        )
    fault = damage(chosen[-1])
    if fault:
        raise UserError(f"the checkpoint is damaged: {fault}", "choose another step")
    return chosen[-1]

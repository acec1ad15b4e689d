"""What signals of uncertainty can come from: what a configuration asks of models, and whether they can give it."""

from pathlib import Path

from whale.errors import UserError
from whale.eval.config import UncertaintyConfig
from whale.models.world_model import WorldModel
from whale.uncertainty import refuse_unmergeable


def check_sources(model: WorldModel, members: list[WorldModel], config: UncertaintyConfig) -> None:
    """Refuse what cannot be measured with these models.

    Raises:
        UserError: a member has another tokenizer, other datasets, or the weights of another; there is no dropout to
            sample; or the model is no folder that a calibration could be stored in.
    """
    known: dict[str | None, Path] = {model.checkpoint_hash: config.model}
    for folder, member in zip(config.members, members, strict=True):
        _check_member(folder, member, model)
        if member.checkpoint_hash in known:
            raise UserError(
                f"the member {folder} has the weights of {known[member.checkpoint_hash]}, and never disagrees with it",
                "train each member with its own loop.seed",
            )
        known[member.checkpoint_hash] = folder
    if config.dropout_samples and not model.config.dynamics.dropout:
        raise UserError(
            f"dropout_samples is {config.dropout_samples}, and {config.model} was trained without dropout",
            "set dropout_samples=0, or train with dynamics.dropout",
        )
    if config.calibrate and not (config.model / "config.json").is_file():
        raise UserError(f"calibrate: {config.model} is no folder of an export", "download it, and name the folder")


def _check_member(folder: Path, member: WorldModel, model: WorldModel) -> None:
    if member.tokenizer.fingerprint != model.tokenizer.fingerprint:
        raise UserError(
            f"the member {folder} has tokenizer {member.tokenizer.fingerprint}, the model "
            f"{model.tokenizer.fingerprint}",
            "train all members on the tokens of one tokenizer",
        )
    if member.config.datasets != model.config.datasets:
        raise UserError(
            f"the member {folder} was trained on {sorted(member.config.datasets)}, the model on "
            f"{sorted(model.config.datasets)}, or their statistics differ",
            "train all members on the same folders of clips",
        )


def not_retraceable(model: WorldModel, dataset: str, config: UncertaintyConfig) -> UserError | None:
    """Why retracing, where it is asked for, is not defined for the dataset's actions; None where it is.

    Raises:
        UserError: it is not, and was to be calibrated.
    """
    if config.retracing is None or dataset not in model.config.datasets:  # a rollout refuses the latter
        return None
    try:
        refuse_unmergeable(model.config.datasets[dataset])
    except UserError as error:
        if config.calibrate:
            raise
        return error
    return None

"""Exported models: a folder with `model.safetensors`, `config.json` and a model card, published whole."""

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whale import __version__
from whale.calibration import Calibration
from whale.checkpoint import load_weights, sha256_file
from whale.config import build_config, to_values
from whale.errors import UserError
from whale.hub import CALIBRATION
from whale.model_card import model_card
from whale.publish import publish_folder, write_json

EXPORT_VERSION = 1
T = TypeVar("T")


def save_export(folder: Path, kind: str, model: nn.Module, config: Any, training: dict[str, Any]) -> None:
    """Publish a model.

    Args:
        folder: the export, replaced if it exists.
        kind: `tokenizer` or `world_model`.
        model: its weights are stored in fp32, and its calibration where it was fitted for these weights.
        config: the model's configuration.
        training: what made it (steps, data hashes, the resolved training configuration), for the record.

    Raises:
        UserError: `folder` is a file.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file, and an export is a folder", "name a folder")
    values = {"export_version": EXPORT_VERSION, "kind": kind, "whale": __version__, "model": to_values(config)}
    with publish_folder(folder) as temporary:
        weights = {name: value.detach().float().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, temporary / "model.safetensors")
        text = json.dumps({**values, "training": training}, indent=1, sort_keys=True)
        (temporary / "config.json").write_text(text + "\n")
        calibration: Calibration | None = getattr(model, "calibration", None)
        if calibration is not None:
            if calibration.weights == sha256_file(temporary / "model.safetensors"):
                write_json(temporary / CALIBRATION, to_values(calibration))
            else:  # the weights were trained further
                calibration = None
        (temporary / "README.md").write_text(model_card(kind, model, config, training, calibration))


def read_export(folder: Path) -> dict[str, Any]:
    """The contents of an export's `config.json`.

    Raises:
        UserError: no export there, or one of another format version.
    """
    path = folder / "config.json"
    if not path.is_file() or not (folder / "model.safetensors").is_file():
        raise UserError(
            f"{folder} holds no exported model (config.json and model.safetensors)",
            "train one with `whale pretrain`, or publish a checkpoint with `whale pretrain export`",
        )
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}", "export the checkpoint again") from None
    if not isinstance(values, dict) or "export_version" not in values:
        raise UserError(f"{path} is not the config.json of an exported model of whale", "name another folder")
    if values["export_version"] != EXPORT_VERSION:
        raise UserError(
            f"{folder} has export version {values['export_version']}, whale {__version__} reads {EXPORT_VERSION}",
            f"load it with whale {values.get('whale', '(unknown)')}, or export the checkpoint again",
        )
    return values


def read_config(folder: Path, kinds: tuple[str, ...], config_class: type[T], key: str | None = None) -> T:
    """The model configuration of an export of one of `kinds`; `key` selects a part of it."""
    values = read_export(folder)
    if values["kind"] not in kinds:
        raise UserError(f"{folder} holds a {values['kind']}, not a {' or '.join(kinds)}", "name another export")
    return build_config(config_class, values["model"][key] if key else values["model"], str(folder / "config.json"))


def load_export(folder: Path, model: nn.Module, prefix: str = "") -> str:
    """Copy an export's weights into a model; returns the sha256 of the weights file.

    With a prefix, only the tensors under it are taken (the tokenizer of a world model).

    Raises:
        UserError: the file is damaged, or its weights do not fit the model.
    """
    path = folder / "model.safetensors"
    try:
        stored: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}", "copy it again, or export the checkpoint again") from None
    tensors = {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}
    load_weights(model, tensors, str(path))
    return sha256_file(path)

"""Metrics and videos of a run: `metrics.jsonl` and `videos/` always, mirrored to Weights & Biases when asked.

The file is the record. Each line is one JSON object, `{"step": ..., "time_sec": ..., name: value, ...}`, flushed as it
is written. Resuming drops what a killed process logged beyond its last checkpoint, so that nothing stands in it twice.
"""

import json
import math
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from whale.config import configclass
from whale.errors import UserError
from whale.publish import publish_file

if TYPE_CHECKING:
    import numpy as np

METRICS_FILE = "metrics.jsonl"
VIDEO_FOLDER = "videos"
WANDB_ID_FILE = "wandb_id.txt"


@configclass
class TrackerConfig:
    """Where metrics go besides `metrics.jsonl`."""

    wandb: Literal["off", "offline", "online"] = "off"
    """Mirror to Weights & Biases: `off`, `offline` (into the run folder, for `wandb sync`) or `online`."""
    project: str = "whale"
    """The Weights & Biases project."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line that a killed process left incomplete is not one of them."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def validation_at(path: Path, step: int) -> dict[str, float | None]:
    """The figures of the validation after `step` steps in a `metrics.jsonl`; none where there was no validation."""
    found = [line for line in read_metrics(path) if line["step"] == step]
    return {name.removeprefix("val/"): one[name] for one in found for name in one if name.startswith("val/")}


class Tracker:
    """Logs the metrics of the run in `folder`; made by the main process only.

    Args:
        config: what to mirror, and where.
        folder: the run folder; gets `metrics.jsonl`, `videos/` and, with wandb, `wandb_id.txt` and `wandb/`.
        run_config: the resolved configuration as plain values, shown beside the run in wandb.
        resumed_step: the last finished step of the checkpoint that the run continues from; lines beyond it are dropped.
            None begins the file anew.

    Raises:
        UserError: wandb is asked for and not installed.
    """

    def __init__(
        self, config: TrackerConfig, folder: Path, run_config: Mapping[str, Any], resumed_step: int | None = None
    ):
        self._folder = folder
        self._wandb: Any = None
        if config.wandb != "off":
            online = config.wandb == "online"
            self._wandb = _wandb_run(config.project, online, folder, run_config, resumed=resumed_step is not None)
        path = folder / METRICS_FILE
        keep = read_metrics(path) if resumed_step is not None and path.is_file() else []
        with publish_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in keep if line["step"] <= (resumed_step or 0))
        self._file = path.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line; a value that is not finite, which JSON cannot hold, becomes null."""
        line: dict[str, Any] = {"step": step, "time_sec": round(time.time(), 3)}
        line |= {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._wandb is not None:
            self._wandb.log({"step": step, **values})

    def video(self, step: int, name: str, frames: "np.ndarray", fps: float) -> Path:
        """Write a video to `videos/<name>/<step>.gif`; one of the same name and step is replaced.

        A GIF plays anywhere and needs no encoder, but shows 256 colours a frame: no figure is taken from it.

        Args:
            step: finished steps.
            name: what it shows; a slash makes a folder.
            frames: uint8 [T, H, W, 3].
            fps: frames a second; a GIF counts in hundredths of a second.
        """
        from PIL import Image  # which loads what `whale status`, a reader of this module, does without

        images = [Image.fromarray(frame) for frame in frames]
        path = self._folder / VIDEO_FOLDER / name / f"{step:08d}.gif"
        with publish_file(path) as temporary:
            images[0].save(temporary, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
        if self._wandb is not None:
            import wandb

            self._wandb.log({"step": step, name: wandb.Video(str(path), format="gif")})
        return path

    def close(self) -> None:
        """Close the file and finish the wandb run."""
        self._file.close()
        if self._wandb is not None:
            self._wandb.finish()


def _wandb_run(project: str, online: bool, folder: Path, run_config: Mapping[str, Any], resumed: bool) -> Any:
    """The wandb run of this folder: a new one, or on resuming the one whose id the folder holds."""
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed", "pip install wandb, or set the tracker's `wandb: off`") from None
    id_file = folder / WANDB_ID_FILE
    if not (resumed and id_file.is_file()):
        with publish_file(id_file) as temporary:
            temporary.write_text(secrets.token_hex(4))
    # Nothing but the configuration and the metrics leaves this process: no arguments, host, code, packages or console.
    settings = wandb.Settings(
        x_disable_meta=True, x_disable_machine_info=True, x_disable_stats=True, x_save_requirements=False,
        disable_git=True, disable_code=True, save_code=False, console="off", quiet=True,
    )  # fmt: skip
    run = wandb.init(
        project=project, id=id_file.read_text(), name=folder.name, dir=folder, config=dict(run_config),
        mode="online" if online else "offline", resume="allow" if online else None, settings=settings,
    )  # fmt: skip
    run.define_metric("*", step_metric="step")  # a step logged again after a restart keeps its place on the axis
    return run

"""From uncertainty to an expected error: a monotone map, fitted on held-out episodes and kept beside the weights.

What predicts the error of an imagined frame is the uncertainty accumulated on the way to it: the sum, over the steps
since the recorded context, of one field of `Uncertainty`; steps that are not retraced add nothing. The error is the
root mean square difference in grey levels between the imagined frame and the recorded one, through the tokenizer.

Legend: N episodes, H imagined frames, B imagined episodes.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from whale.checkpoint import sha256_file
from whale.config import build_config, configclass, to_values
from whale.errors import UserError
from whale.hub import CALIBRATION
from whale.metrics.calibration import isotonic
from whale.model_card import model_card
from whale.publish import publish_file, write_json
from whale.uncertainty import Retracing, Uncertainty

if TYPE_CHECKING:
    from whale.models.world_model import WorldModel

MOST_KNOTS = 12
REMEDY = "calibrate the export with `whale eval uncertainty` (calibrate: true) on held-out episodes"


@configclass
class Calibration:
    """Expected error by accumulated uncertainty: linear between knots, constant beyond the outer ones.

    It is of rollouts that take the expected tokens; what is drawn at a temperature errs more.
    """

    weights: str
    """sha256 of the `model.safetensors` that it was fitted for, and holds for alone."""
    signal: Literal["divergence_mean", "divergence_top", "entropy", "mean", "top"]
    """The field of `Uncertainty` that is accumulated."""
    retracing: Retracing
    """How each step's uncertainty was estimated."""
    dataset: str
    """What the episodes are of."""
    clips: str
    """Hash of the manifest of the clips that hold them."""
    episodes: int
    """N."""
    frames: int
    """N H, imagined ones."""
    context_frames: int
    """Recorded frames that were given first; it is used with any number, since what accumulates begins after them."""
    horizon: int
    """H: of later frames nothing was measured, and their expected error is the largest known one at most."""
    uncertainty: tuple[float, ...]
    """Knots, ascending: the mean accumulated uncertainty of a group of frames."""
    error: tuple[float, ...]
    """Expected error at each knot, grey levels (0 to 255), never falling."""

    def __post_init__(self) -> None:
        """Check the map."""
        x, y = np.array(self.uncertainty), np.array(self.error)
        if not len(x) == len(y) > 0 or not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise ValueError("uncertainty and error must be as many finite numbers, one at least")
        if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any() or y[0] < 0:
            raise ValueError("uncertainty must ascend, and error not fall from below 0")

    def of_step(self, uncertainty: Uncertainty | None) -> np.ndarray:
        """What a step adds to the accumulated uncertainty, float64 [B]; float64 [], 0, if it was not retraced."""
        if uncertainty is None:
            return np.zeros(())
        return np.asarray(getattr(uncertainty, self.signal).cpu(), np.float64)

    def expected_error(self, accumulated: np.ndarray) -> np.ndarray:
        """Expected error in grey levels, float32 [B], of frames with this accumulated uncertainty, float64 [B]."""
        return np.interp(accumulated, self.uncertainty, self.error).astype(np.float32)


def fit_knots(accumulated: np.ndarray, error: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of the monotone map nearest to pairs in least squares: float [N, H] twice -> `uncertainty`, `error`.

    The frames are grouped by ascending uncertainty, about as many in each and equal ones together, and the means of the
    groups are made monotone. Few groups: neighbouring frames of one episode are no independent samples.
    """
    x, y = accumulated.ravel().astype(np.float64), error.ravel().astype(np.float64)
    edges = np.unique(np.quantile(x, np.linspace(0, 1, MOST_KNOTS + 1)[1:-1], method="lower"))
    _, group = np.unique(np.searchsorted(edges, x), return_inverse=True)
    count = np.bincount(group)
    means = np.bincount(group, x) / count, isotonic(np.bincount(group, y) / count, count)
    return tuple(means[0].tolist()), tuple(means[1].tolist())


def calibration_for(model: "WorldModel", dataset: str, retracing: Retracing) -> Calibration:
    """The calibration of a model's uncertainty on a dataset, retraced so.

    Raises:
        UserError: it has none, or one of another dataset or retracing.
    """
    found: Calibration | None = model.calibration
    if found is None:
        raise UserError(f"the model has no calibration: its export holds no {CALIBRATION}", REMEDY)
    if (found.dataset, found.retracing) != (dataset, retracing):
        asked, known = (f"{name!r} at steps {r.steps}, every {r.every}" for name, r in (
            (dataset, retracing), (found.dataset, found.retracing)))  # fmt: skip
        raise UserError(f"the model is calibrated on {known}, not on {asked}", f"use that, or {REMEDY}")
    return found


def save_calibration(folder: Path, model: "WorldModel", calibration: Calibration) -> None:
    """Put a calibration into a model's export, in place of an earlier one, and into its card and the model.

    Raises:
        UserError: it was fitted for other weights than the export holds.
    """
    _refuse_other_weights(calibration, folder, sha256_file(folder / "model.safetensors"))
    write_json(folder / CALIBRATION, to_values(calibration))
    with publish_file(folder / "README.md") as temporary:
        temporary.write_text(model_card(model.KIND, model, model.config, model.record, calibration))
    model.calibration = calibration


def read_calibration(folder: Path, weights: str) -> Calibration | None:
    """The calibration in an export whose weights have this sha256; None where there is none.

    Raises:
        UserError: it is damaged, or was fitted for other weights.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_bytes())
        if not isinstance(values, dict):
            raise ValueError("it holds no mapping of keys")
        calibration = build_config(Calibration, values, str(path))
    except (ValueError, RecursionError, UserError) as error:
        fault = error.args[0] if isinstance(error, UserError) else error
        raise UserError(f"{path} is damaged: {fault}", f"delete it, then {REMEDY}") from None
    _refuse_other_weights(calibration, folder, weights)
    return calibration


def _refuse_other_weights(calibration: Calibration, folder: Path, weights: str) -> None:
    if calibration.weights != weights:
        raise UserError(
            f"the calibration was fitted for weights of sha256 {calibration.weights}, and {folder} holds {weights}",
            f"delete {folder / CALIBRATION} if it is there, then {REMEDY}",
        )

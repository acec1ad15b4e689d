"""Calibration of the uncertainty by retracing: fitted on one half of the held-out episodes, judged on the other.

What is stored is the fit that was judged, not one on all episodes, whose calibration nobody would have measured.
"""

from dataclasses import dataclass

import numpy as np

from whale.calibration import Calibration, fit_knots
from whale.eval.config import UncertaintyConfig
from whale.eval.episodes import Episodes
from whale.eval.fidelity import mean_figure
from whale.eval.results import Figure
from whale.eval.signals import Signals
from whale.metrics.calibration import expected_calibration_error
from whale.metrics.intervals import bootstrap_interval
from whale.models.world_model import WorldModel

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """A calibration and what it was worth on the judged half, of M episodes."""

    calibration: Calibration
    predicted: np.ndarray
    """float64 [M, H], grey levels."""
    observed: np.ndarray
    """float64 [M, H], grey levels."""
    by_step: np.ndarray
    """float64 [H]: mean error at each step on the other half, the prediction of a clock."""

    def figures(self, seed: int) -> list[Figure]:
        """Calibration error, and how far from the truth predictions are, beside those of a clock."""
        def ece(drawn: np.ndarray) -> float:
            return expected_calibration_error(self.predicted[drawn].ravel(), self.observed[drawn].ravel(), BINS)

        num = len(self.observed)
        own, clock = (np.abs(guess - self.observed).mean(1) for guess in (self.predicted, self.by_step[None]))
        return [
            Figure("calibration_ece", ece(np.arange(num)), *bootstrap_interval(ece, num, seed), "grey levels", num),
            mean_figure("calibration_mae", own, "grey levels", seed),
            mean_figure("calibration_mae_step_index", clock, "grey levels", seed),
        ]

    def bins(self) -> list[dict[str, float]]:
        """Frames of the judged half in `BINS` groups of ascending prediction: means, and 80 % of the errors."""
        predicted, observed = self.predicted.ravel(), self.observed.ravel()
        found = []
        for part in np.array_split(np.argsort(predicted, kind="stable"), BINS):
            low, high = np.percentile(observed[part], [10, 90])
            means = {"predicted": float(predicted[part].mean()), "observed": float(observed[part].mean())}
            found.append(means | {"low": float(low), "high": float(high)})
        return found


def calibrate(
    model: WorldModel, episodes: Episodes, signals: Signals, clips_hash: str, config: UncertaintyConfig
) -> Reliability:
    """Fit and judge, on halves that the seed draws; the cameras of an episode are in one half."""
    names, of = np.unique(episodes.names, return_inverse=True)
    fitted = (np.random.default_rng([config.seed, 2]).permutation(len(names)) < len(names) / 2)[of]
    scores, error = signals.accumulated["retracing"], signals.error
    assert model.checkpoint_hash is not None and config.retracing is not None
    uncertainty, expected = fit_knots(scores[fitted], error[fitted])
    calibration = Calibration(
        weights=model.checkpoint_hash,
        signal="top",
        retracing=config.retracing,
        dataset=episodes.dataset,
        clips=clips_hash,
        episodes=int(fitted.sum()),
        frames=error[fitted].size,
        context_frames=config.context_frames,
        horizon=config.horizon,
        uncertainty=uncertainty,
        error=expected,
    )
    predicted = calibration.expected_error(scores[~fitted]).astype(np.float64)
    return Reliability(calibration, predicted, error[~fitted], error[fitted].mean(0))

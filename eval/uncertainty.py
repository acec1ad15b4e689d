"""Does a signal know that an imagined frame is wrong? Detection within a horizon, and calibration.

Errors and signals both grow along a rollout, so pooled over steps the number of the step alone would pass for a
detector. Here episodes are compared with each other at the same step, and figures are means over the steps 1 to H: a
frame is wrong if its error is above the median, or the 90th percentile (`_p90`), of the errors of all episodes at that
step. Signals are accumulated, the sum over the steps so far; those of the step alone have the suffix `_step`. Figures
pooled over steps are there too, as others report them (`auroc_pooled_...`), beside that of the step's number.

Intervals resample episodes; which frames are wrong is not drawn again with them.

Legend: N episodes, H steps, R resamples.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whale.eval.results import Figure, rounded
from whale.eval.signals import HEADLINES, Signals
from whale.metrics.detection import auroc, auroc_by_horizon, risk_coverage_area
from whale.metrics.intervals import bootstrap_counts
from whale.metrics.value import ranks, spearman

QUANTILES = {"": 0.5, "_p90": 0.9}

Resampled = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""A statistic of scores [N] and targets [N] under counts [R, N] of how often each was drawn: float [R]."""


def headline(name: str) -> bool:
    """Whether it is a signal as it is judged, and not one of its variants."""
    return not any(name.startswith(f"{source}_") for source in HEADLINES)


def resampled_auroc(scores: np.ndarray, wrong: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`auroc` of each resample, float [R]; 0.5 where it holds no pair."""
    order = np.argsort(scores)
    _, first = np.unique(scores[order], return_index=True)
    wrongs, rights = (np.add.reduceat(counts[:, order] * of[order], first, axis=1) for of in (wrong, ~wrong))
    won, pairs = (wrongs * (rights.cumsum(1) - rights / 2)).sum(1), wrongs.sum(1) * rights.sum(1)
    return np.where(pairs > 0, won / np.maximum(pairs, 1), 0.5)


def resampled_spearman(scores: np.ndarray, errors: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rank correlation of each resample, the ranks being those among all: float [R]; 0 where one side is constant."""
    weights = counts / counts.sum(1, keepdims=True)
    x, y = (ranks(values) - weights @ ranks(values)[:, None] for values in (scores, errors))
    covariance, square = (weights * x * y).sum(1), (weights * x**2).sum(1) * (weights * y**2).sum(1)
    return np.where(square > 1e-9, covariance / np.sqrt(np.maximum(square, 1e-9)), 0.0)


def resampled_area(scores: np.ndarray, errors: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Area under risk and coverage of each resample, equal scores in the order they come in: float [R]."""
    order = np.argsort(scores, kind="stable")
    drawn = counts[:, order]
    risk = (drawn * errors[order]).cumsum(1) / np.maximum(drawn.cumsum(1), 1)
    return (drawn * risk).sum(1) / drawn.sum(1)


class Judge:
    """Makes figures of scores [N, H] against errors [N, H]: means over the steps, with intervals over episodes."""

    def __init__(self, error: np.ndarray, seed: int):
        self.error = error
        self._counts = bootstrap_counts(len(self.error), seed)
        self.wrong = {suffix: self.error > np.quantile(self.error, q, axis=0) for suffix, q in QUANTILES.items()}

    def _figure(self, name: str, unit: str, found: np.ndarray, resampled: np.ndarray) -> Figure:
        """From the statistic at each step [H] and of its resamples [R, H]."""
        low, high = np.percentile(resampled.mean(1), [2.5, 97.5])
        return Figure(name, float(found.mean()), float(low), float(high), unit, len(self.error))

    def _resample(self, statistic: Resampled, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        return np.stack([statistic(scores[:, h], targets[:, h], self._counts) for h in range(scores.shape[1])], 1)

    def auroc(self, name: str, scores: np.ndarray, suffix: str = "") -> Figure:
        """For the errors above the quantile of the suffix."""
        found = auroc_by_horizon(scores, self.error, QUANTILES[suffix])
        resampled = self._resample(resampled_auroc, scores, self.wrong[suffix])
        return self._figure(f"auroc_{name}{suffix}", "", found, resampled)

    def gain(self, name: str, scores: np.ndarray, rival: np.ndarray, suffix: str) -> Figure:
        """AUROC over that of a rival, on the same resamples."""
        found, other = (auroc_by_horizon(one, self.error, QUANTILES[suffix]) for one in (scores, rival))
        own, its = (self._resample(resampled_auroc, one, self.wrong[suffix]) for one in (scores, rival))
        return self._figure(f"auroc_{name}{suffix}", "", found - other, own - its)

    def auroc_curve(self, scores: np.ndarray, steps: Sequence[int]) -> dict[str, list[float]]:
        """For the errors above the median at single steps, with intervals, as `plots.horizon_curves` draws them."""
        at = np.array(steps) - 1
        low, high = np.percentile(self._resample(resampled_auroc, scores[:, at], self.wrong[""][:, at]), [2.5, 97.5], 0)
        return {"mean": rounded(auroc_by_horizon(scores, self.error, 0.5)[at]), "low": rounded(low),
                "high": rounded(high)}  # fmt: skip

    def pooled_auroc(self, name: str, scores: np.ndarray) -> Figure:
        """Of all steps together, wrong above the median of all."""
        wrong = self.error > np.median(self.error)
        counts = self._counts.repeat(self.error.shape[1], 1)
        found, resampled = auroc(scores.ravel(), wrong.ravel()), resampled_auroc(scores.ravel(), wrong.ravel(), counts)
        return self._figure(f"auroc_pooled_{name}", "", np.array([found]), resampled[:, None])

    def spearman(self, name: str, scores: np.ndarray) -> Figure:
        """Rank correlation with the error."""
        found = np.array([spearman(scores[:, h], self.error[:, h]) for h in range(scores.shape[1])])
        return self._figure(f"spearman_{name}", "", found, self._resample(resampled_spearman, scores, self.error))

    def area(self, name: str, scores: np.ndarray) -> Figure:
        """Under risk and coverage: the mean error of those kept, over all shares that could be kept."""
        found = np.array([risk_coverage_area(scores[:, h], self.error[:, h]) for h in range(scores.shape[1])])
        resampled = self._resample(resampled_area, scores, self.error)
        return self._figure(f"risk_coverage_area_{name}", "grey levels", found, resampled)


def figures(judge: Judge, signals: Signals) -> list[Figure]:
    """Detection by every signal that there is."""
    found, have, rivals = [], signals.accumulated, ("entropy", "ensemble", "dropout", "action_norm")
    for name, scores in sorted(have.items(), key=lambda item: not headline(item[0])):
        if name == "step_index":
            found.append(judge.pooled_auroc(name, scores))
            continue
        found += [judge.auroc(name, scores, suffix) for suffix in QUANTILES]
        if headline(name):
            found += [judge.auroc(f"{name}_step", signals.per_step[name], suffix) for suffix in QUANTILES]
            found += [judge.spearman(name, scores), judge.area(name, scores), judge.pooled_auroc(name, scores)]
    found += [judge.gain(f"retracing_over_{rival}", have["retracing"], have[rival], suffix)
              for rival in rivals for suffix in QUANTILES if "retracing" in have and rival in have]  # fmt: skip
    return [*found, judge.area("oracle", judge.error)]


def curves(judge: Judge, signals: Signals) -> dict[str, Any]:
    """Over the steps, at powers of two: AUROC of the judged signals."""
    last = signals.error.shape[1]
    steps = sorted({2**k for k in range(last.bit_length())} | {last})
    shown = {name: scores for name, scores in signals.accumulated.items() if headline(name) and name != "step_index"}
    return {"steps": steps, "auroc": {name: judge.auroc_curve(scores, steps) for name, scores in shown.items()}}

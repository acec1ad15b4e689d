"""Does a signal know that an imagined frame is wrong? Detection within a horizon, and calibration.

Errors and signals both grow along a rollout, so pooled over steps the number of the step alone would pass for a
detector. Here episodes are compared with each other at the same step, and figures are means over the steps 1 to H: a
frame is wrong if its error is above the median, or the 90th percentile (`_p90`), of the errors of all episodes at that
step. Signals are accumulated, the sum over the steps so far; those of the step alone have the suffix `_step`. Figures
pooled over steps are there too, as others report them (`auroc_pooled_...`), beside that of the step's number.

Intervals resample episodes; which frames are wrong is not drawn again with them.

Legend: N episodes, H steps, R resamples; row 0 of [1 + R] is the sample itself.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from whale.eval.results import Figure, rounded
from whale.eval.signals import HEADLINES, Signals
from whale.metrics.detection import auroc, rank_correlation, risk_coverage_area
from whale.metrics.intervals import bootstrap_counts

QUANTILES = {"": 0.5, "_p90": 0.9}
RIVALS = ("entropy", "ensemble", "dropout", "action_norm")

Statistic = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""One of `whale.metrics.detection`: of scores [N] and targets [N] under counts [N, R]."""


def headline(name: str) -> bool:
    """Whether it is a signal as it is judged, and not one of its variants."""
    return not any(name.startswith(f"{source}_") for source in HEADLINES)


class Judge:
    """Holds scores [N, H] against errors [N, H] at every step, in the sample and its resamples."""

    def __init__(self, error: np.ndarray, seed: int):
        self.error = error
        self._counts = np.concatenate([np.ones((len(error), 1)), bootstrap_counts(len(error), seed).T], 1)

    def __call__(self, statistic: Statistic, scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Of each step, float [1 + R, H]."""
        return np.stack([statistic(scores[:, h], targets[:, h], self._counts) for h in range(scores.shape[1])], 1)

    def auroc(self, scores: np.ndarray, suffix: str = "") -> np.ndarray:
        """For the errors above the quantile of the suffix at their step, float [1 + R, H]."""
        return self(auroc, scores, self.error > np.quantile(self.error, QUANTILES[suffix], axis=0))

    def pooled_auroc(self, scores: np.ndarray) -> np.ndarray:
        """Of all steps together, wrong above the median of all: float [1 + R, 1]."""
        steps, wrong = self.error.shape[1], self.error > np.median(self.error)
        parts = np.array_split(self._counts, 20, axis=1)  # of all resamples at once, the counts would fill the memory
        return np.concatenate([auroc(scores.ravel(), wrong.ravel(), part.repeat(steps, 0)) for part in parts])[:, None]

    def figure(self, name: str, found: np.ndarray, unit: str = "") -> Figure:
        """The mean over the steps [1 + R, H], with its interval over episodes."""
        means = found.mean(1)
        low, high = np.percentile(means[1:], [2.5, 97.5])
        return Figure(name, float(means[0]), float(low), float(high), unit, len(self.error))

    def area(self, name: str, scores: np.ndarray) -> Figure:
        """Under risk and coverage: the mean error of those kept, over all shares that could be kept."""
        return self.figure(f"risk_coverage_area_{name}", self(risk_coverage_area, scores, self.error), "grey levels")


def figures(judge: Judge, signals: Signals) -> list[Figure]:
    """Detection by every signal that there is."""
    found, have, figure = [], signals.accumulated, judge.figure
    aurocs: dict[str, np.ndarray] = {}
    clock = np.broadcast_to(np.arange(judge.error.shape[1]), judge.error.shape)
    for name, scores in sorted(have.items(), key=lambda item: not headline(item[0])):
        aurocs |= {f"{name}{suffix}": judge.auroc(scores, suffix) for suffix in QUANTILES}
        found += [figure(f"auroc_{name}{suffix}", aurocs[f"{name}{suffix}"]) for suffix in QUANTILES]
        if headline(name):
            alone = signals.per_step[name]
            found += [figure(f"auroc_{name}_step{suffix}", judge.auroc(alone, suffix)) for suffix in QUANTILES]
            found.append(figure(f"spearman_{name}", judge(rank_correlation, scores, judge.error)))
            found += [judge.area(name, scores), figure(f"auroc_pooled_{name}", judge.pooled_auroc(scores))]
    for rival in RIVALS:
        for suffix in QUANTILES:
            if "retracing" in have and rival in have:
                gain = aurocs[f"retracing{suffix}"] - aurocs[f"{rival}{suffix}"]
                found.append(figure(f"auroc_retracing_over_{rival}{suffix}", gain))
    found.append(figure("auroc_pooled_step_index", judge.pooled_auroc(clock)))
    return [*found, judge.area("oracle", judge.error)]


def curves(judge: Judge, signals: Signals) -> dict[str, Any]:
    """Over the steps, at powers of two: AUROC of the judged signals, as `plots.horizon_curves` draws it."""
    last = signals.error.shape[1]
    steps = sorted({2**k for k in range(last.bit_length())} | {last})
    curve = {}
    for name, scores in signals.accumulated.items():
        if headline(name):
            found = judge.auroc(scores)[:, np.array(steps) - 1]
            low, high = np.percentile(found[1:], [2.5, 97.5], 0)
            curve[name] = {"mean": rounded(found[0]), "low": rounded(low), "high": rounded(high)}
    return {"steps": steps, "auroc": curve}

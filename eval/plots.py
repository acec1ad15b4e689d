"""The drawings of the report, as SVG text or PNG bytes.

Colours are those of Okabe and Ito, which stay apart for colour-blind readers and in grey print, and mean the same thing
in every drawing.
"""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1f2933", "#9aa5b1"
STYLES: dict[str, dict[str, Any]] = {
    "model": {"label": "model", "color": "#0072b2", "marker": "o"},
    "ceiling": {"label": "tokenizer ceiling", "color": "#009e73", "marker": "^", "linestyle": "--"},
    "copy": {"label": "copy last frame", "color": "#d98c00", "marker": "s"},
    "shuffled": {"label": "shuffled actions", "color": "#b0569a", "marker": "D", "linestyle": ":"},
    "twin": {"label": "action-blind twin", "color": "#d55e00", "marker": "v", "linestyle": "-."},
    "finetuned": {"label": "fine-tuned", "color": "#0072b2", "marker": "o"},
    "scratch": {"label": "from scratch", "color": "#d55e00", "marker": "v"},
    "retracing": {"label": "retracing", "color": "#0072b2", "marker": "o"},
    "entropy": {"label": "token entropy", "color": "#009e73", "marker": "^", "linestyle": "--"},
    "ensemble": {"label": "ensemble", "color": "#d98c00", "marker": "s"},
    "dropout": {"label": "dropout", "color": "#b0569a", "marker": "D", "linestyle": ":"},
    "action_norm": {"label": "action norm", "color": "#d55e00", "marker": "v", "linestyle": "-."},
    "chance": {"label": "chance", "color": FAINT, "linestyle": "--"},
}
SETTINGS: Any = {
    "svg.hashsalt": "whale",  # equal results make equal bytes
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def _figure(width_in: float, height_in: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def _svg(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()


def _open_axes(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def horizon_curves(curves: dict[str, dict[str, list[float]]], horizons: list[int], label: str) -> bytes:
    """One line a series over the horizons, its 95 % interval shaded, as SVG; `curves` maps a name of `STYLES`."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        figure = _figure(5.4, 3.5)
        axes = figure.subplots()
        _open_axes(axes)
        for name, style in STYLES.items():
            if name in curves:
                axes.plot(horizons, curves[name]["mean"], linewidth=2, markersize=5, **style)
                axes.fill_between(horizons, curves[name]["low"], curves[name]["high"], color=style["color"], alpha=0.13,
                                  linewidth=0)  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(horizons, [str(horizon) for horizon in horizons])
        axes.minorticks_off()
        axes.set_xlabel("imagined frames")
        axes.set_ylabel(label)
        columns = 4 if len(curves.keys() & STYLES.keys()) <= 4 else 3
        figure.legend(loc="outside upper left", ncols=columns, frameon=False, columnspacing=1.2, handlelength=1.8,
                      fontsize=9, borderaxespad=0.2)  # fmt: skip
        return _svg(figure)


def value_scatter(
    names: list[str], true: np.ndarray, imagined: np.ndarray, title: str, colour: str, limits: tuple[float, float]
) -> bytes:
    """Imagined against true mean returns [P, N] of named policies, with standard errors over the starts, as SVG."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        figure = _figure(5.4, 4.5)
        axes = figure.subplots()
        _open_axes(axes)
        x, y = true.mean(1), imagined.mean(1)
        errors = [values.std(1, ddof=1) / np.sqrt(values.shape[1]) for values in (true, imagined)]
        axes.plot(limits, limits, color=FAINT, linewidth=1, linestyle="--", zorder=1)
        axes.errorbar(x, y, yerr=errors[1], xerr=errors[0], fmt="none", ecolor="#cbd2d9", elinewidth=1.2, zorder=2)
        axes.scatter(x, y, s=42, color=colour, edgecolor="white", linewidth=0.8, zorder=3)
        for name, height, i in _label_heights(names, y, limits):
            axes.annotate(name, (x[i], y[i]), xytext=(limits[1] + 0.035 * (limits[1] - limits[0]), height), fontsize=9,
                          va="center", annotation_clip=False, arrowprops={"arrowstyle": "-", "color": "#d5dae0",
                          "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4}, zorder=1)  # fmt: skip
        axes.set(xlim=limits, ylim=limits, xlabel="true return", ylabel="imagined return")
        axes.set_aspect("equal")
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        return _svg(figure)


def _label_heights(names: list[str], y: np.ndarray, limits: tuple[float, float]) -> list[tuple[str, float, int]]:
    """Heights of the names in the margin: near their points, in their order, never over one another."""
    gap = 0.062 * (limits[1] - limits[0])
    order = np.argsort(y, kind="stable")
    heights = y[order].astype(float)
    for _ in range(200):  # neighbours that are too close push each other apart
        short = np.maximum(gap - np.diff(heights), 0) / 2
        heights[1:] += short
        heights[:-1] -= short
        heights += np.clip(limits[0] - heights.min(), 0, None) - np.clip(heights.max() - limits[1], 0, None)
    return [(names[i], float(height), int(i)) for i, height in zip(order, heights, strict=True)]


def picture(cells: np.ndarray, horizons: list[int], control_period_sec: float) -> bytes:
    """The README's picture: uint8 [3, K, H, W, 3] (real, imagined, difference) with labels, PNG about 1600 px wide."""
    import matplotlib
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = cells.shape[1]
    with matplotlib.rc_context(SETTINGS):
        figure = _figure(8.0, (8.0 - 0.9) / columns * 3 + 0.55)
        figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01))
        grid = figure.subplots(3, columns)
        for row, name in enumerate(("real", "imagined", "difference")):
            for column, horizon in enumerate(horizons):
                axes = grid[row, column]
                axes.imshow(cells[row, column], interpolation="nearest")
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
                if row == 0:
                    seconds = f"+{horizon * control_period_sec:.1f} s"
                    axes.set_title(f"{seconds}\n{horizon} frames" if horizon > 1 else
                                   f"{seconds}\n1 frame" if horizon else "start\nlast given", fontsize=9)  # fmt: skip
                if column == 0:
                    axes.set_ylabel(name, fontsize=10.5, fontweight="bold")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None})
        return buffer.getvalue()


def reliability(bins: list[dict[str, float]]) -> bytes:
    """Observed against expected error in groups of frames, with 80 % of the errors of each, as SVG."""
    import matplotlib

    with matplotlib.rc_context(SETTINGS):
        figure = _figure(5.4, 3.5)
        axes = figure.subplots()
        _open_axes(axes)
        x, y, low, high = (np.array([one[key] for one in bins]) for key in ("predicted", "observed", "low", "high"))
        ends = (0.0, 1.05 * max(x.max(), high.max()))
        axes.plot(ends, ends, color=FAINT, linewidth=1.2, linestyle="--", label="as expected")
        axes.vlines(x, low, high, color=STYLES["retracing"]["color"], alpha=0.3, linewidth=4, label="80 % of frames")
        axes.scatter(x, y, s=30, color=STYLES["retracing"]["color"], zorder=3, label="mean of a tenth of the frames")
        axes.set(xlabel="expected error, grey levels", ylabel="true error, grey levels", xlim=ends, ylim=ends)
        figure.legend(loc="outside upper left", ncols=3, frameon=False, columnspacing=1.2, handlelength=1.8, fontsize=9,
                      borderaxespad=0.2)  # fmt: skip
        return _svg(figure)


def uncertainty_strip(
    pictures: np.ndarray, heats: np.ndarray, limits: np.ndarray, titles: list[str], notes: list[str]
) -> bytes:
    """An episode seen by its uncertainty, as PNG: a column for each of K frames.

    Args:
        pictures: uint8 [2, K, H, W, 3], recorded and imagined.
        heats: float [2, K, G, G], disagreement of each token (nats) and error of each (grey levels).
        limits: upper ends of their colours, float [2].
        titles: above the K columns.
        notes: below them.
    """
    import matplotlib
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    names = ("recorded", "imagined", "disagreement", "error")
    columns = pictures.shape[1]
    with matplotlib.rc_context(SETTINGS):
        figure = _figure(7.0, (7.0 - 1.2) / columns * 4 + 0.75)
        figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.01))
        grid: Any = figure.subplots(4, columns + 1, squeeze=False, width_ratios=[*[1] * columns, 0.08])
        for row, column in np.ndindex(4, columns):
            axes = grid[row, column]
            shown = pictures[row, column] if row < 2 else heats[row - 2, column]
            image = axes.imshow(shown, interpolation="nearest", cmap="magma", vmin=0, vmax=limits[row - 2])
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if column == 0:
                axes.set_ylabel(names[row], fontsize=10.5, fontweight="bold")
            if row >= 2:
                bar = figure.colorbar(image, cax=grid[row, -1], label=("nats", "grey levels")[row - 2])
                bar.outline.set_visible(False)
        for column in range(columns):
            grid[0, column].set_title(titles[column], fontsize=9)
            grid[3, column].set_xlabel(notes[column], fontsize=9)
        for row in range(2):
            grid[row, -1].set_axis_off()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=170, facecolor="white", metadata={"Software": None})
        return buffer.getvalue()

"""Figures and result files: what the evaluation tasks write and the report reads."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from whale.config import to_values
from whale.errors import UserError
from whale.publish import write_json
from whale.runtime import environment

SCHEMA_VERSION = 1

Need = dict[Literal["at_least", "at_most"], float]


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    unit: str
    n: int
    """How many episodes, policies or the like were averaged."""
    need: Need | None = None
    """The bound that `value` is held to."""

    @property
    def holds(self) -> bool | None:
        """Whether `value` meets the need; None where nothing is needed of it."""
        if self.need is None:
            return None
        return self.need.get("at_least", -math.inf) <= self.value <= self.need.get("at_most", math.inf)

    def record(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self) | {"holds": self.holds}


def hold_to(figures: Sequence[Figure], needs: dict[str, Need]) -> list[Figure]:
    """The figures with their needs.

    Raises:
        UserError: a need names no figure.
    """
    names = [figure.name for figure in figures]
    for name in needs:
        if name not in names:
            raise UserError(f"needs.{name} is no figure of this task", f"the figures are: {', '.join(names)}")
    return [replace(figure, need=needs.get(figure.name)) for figure in figures]


def write_part(task: str, config: Any, figures: Sequence[Figure], content: dict[str, Any]) -> Path:
    """Publish `<out>/<name>.json` of a task whose configuration has `out` and `name`; returns its path.

    `content` is the task's own: identities of model and data, sample counts, curves, tables, media.
    """
    path = config.out / f"{config.name}.json"
    head = {
        "schema": SCHEMA_VERSION,
        "task": task,
        "name": config.name,
        "config": to_values(config),
        "environment": environment(),
        "figures": [figure.record() for figure in figures],
    }
    write_json(path, head | content)
    return path


def read_result(path: Path, task: str | None = None) -> dict[str, Any]:
    """A result file.

    Raises:
        UserError: it is missing, no result file, of another schema version, or of another task than `task`.
    """
    again = "run the evaluation task that writes it again with this version of whale"
    if not path.is_file():
        raise UserError(f"there is no result file {path}", "run the evaluation task that writes it first")
    try:
        values = json.loads(path.read_text())
        schema, found = values["schema"], values["task"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a result file", again) from None
    if schema != SCHEMA_VERSION:
        raise UserError(f"{path} has schema version {schema!r}; this code reads version {SCHEMA_VERSION}", again)
    if task is not None and found != task:
        raise UserError(f"{path} is a result of the task {found!r}, need one of {task!r}", "correct the path")
    return values


def read_figures(records: Sequence[dict[str, Any]]) -> list[Figure]:
    """Figures as they were written."""
    return [Figure(**{key: value for key, value in record.items() if key != "holds"}) for record in records]


def read_media(folder: Path, entry: dict[str, Any]) -> bytes:
    """The bytes of a listed file, whose path is relative to the folder of the result file.

    Raises:
        UserError: it is missing, or not the file that was listed.
    """
    path = folder / entry["path"]
    if not path.is_file():
        raise UserError(f"{path} is listed in the results, but is not there", "run the evaluation task again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise UserError(f"{path} is not the file that the results list (its hash differs)", "run the evaluation again")
    return content


def rounded(values: Any) -> Any:
    """An array as nested lists for a result file, to 5 decimals; NaN, a value that was left out, becomes null."""
    if isinstance(values, list):
        return [rounded(value) for value in values]
    if hasattr(values, "tolist"):
        return rounded(values.tolist())
    return None if math.isnan(values) else round(values, 5)


def bound(need: Need | None) -> str:
    """A need in words, empty for none."""
    words = {"at_least": "at least", "at_most": "at most"}
    return " and ".join(f"{words[key]} {value:g}" for key, value in (need or {}).items())


def table(figures: Sequence[Figure]) -> list[str]:
    """Lines of the verdict table, the figures that are held to a need first."""
    verdict = {True: "PASS", False: "FAIL", None: ""}
    rows = [("figure", "value", "95 % interval", "unit", "n", "need", "verdict")]
    for figure in sorted(figures, key=lambda figure: figure.need is None):
        interval = f"{figure.low:.3f} to {figure.high:.3f}"
        rows.append((figure.name, f"{figure.value:.3f}", interval, figure.unit, str(figure.n), bound(figure.need),
                     verdict[figure.holds]))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

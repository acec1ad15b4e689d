"""What `whale status` prints: a block for each run, a table of several, or JSON."""

from collections.abc import Sequence

from pydantic import TypeAdapter

from whale.status import RunStatus


def as_blocks(statuses: Sequence[RunStatus]) -> str:
    """A paragraph for each run."""
    return "\n\n".join(map(_block, statuses))


def as_table(statuses: Sequence[RunStatus]) -> str:
    """A line for each run under one of headings."""
    rows = [("run", "task", "state", "step", "steps/s", "ETA", "checkpoint", "restarts", "loss", "note")]
    for one in statuses:
        rows.append((
            str(one.run), one.task, one.state, f"{one.step}/{one.steps}", _number(one.steps_per_sec),
            _span(one.eta_sec), _checkpoint(one), str(one.restarts), _number(one.loss), one.note,
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def as_json(statuses: Sequence[RunStatus]) -> str:
    """A list of objects with the fields of `RunStatus`; times are UTC in ISO 8601."""
    return TypeAdapter(list[RunStatus]).dump_json(list(statuses), indent=1).decode()


def _block(one: RunStatus) -> str:
    passed = f"{one.started:%Y-%m-%d %H:%M:%S} UTC" + (f" to {one.ended:%Y-%m-%d %H:%M:%S} UTC" if one.ended else "")
    job = f", SLURM job {one.slurm_job}" if one.slurm_job else ""
    figures = ", ".join(f"{name} {_number(value)}" for name, value in one.validation.items())
    rows = {
        "task": one.task,
        "state": one.state + (f": {one.note}" if one.note else ""),
        "step": f"{one.step} of {one.steps} ({100 * one.step / one.steps:.1f} %)",
        "rate": f"{_number(one.steps_per_sec)} steps/s",
        "ETA": _span(one.eta_sec),
        "last heard": f"{_span(one.silent_sec)} ago",
        "checkpoint": _checkpoint(one),
        "attempt": f"{one.restarts + 1}, {passed}",
        "process": f"{one.pid} on {one.host}{job}, world size {one.world_size}",
        "loss": _number(one.loss),
        "validation": f"step {one.validation_step}: {figures}" if figures else "-",
    }
    return "\n".join([str(one.run), *(f"  {name:<12}{text}" for name, text in rows.items())])


def _checkpoint(one: RunStatus) -> str:
    if one.checkpoint_age_sec is None:
        return "-"
    return f"step {one.checkpoint_step}, {_span(one.checkpoint_age_sec)} ago"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

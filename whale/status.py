"""`whale status RUN ...`: how runs go, read from their folders without touching them (and without loading torch)."""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from whale.checkpoint_folder import COMPLETE, Checkpoint, find_checkpoints
from whale.errors import UserError
from whale.run_folder import STATUS_FILE, RunRecord, is_held, read_record
from whale.tracker import METRICS_FILE

WINDOW = 200
"""Newest lines of metrics that rate and ETA are taken from."""
SILENT_SEC = 600.0
"""Where no lock tells, a run that has logged nothing for this long (and for ten of its intervals) counts as killed."""


@dataclass(frozen=True)
class RunStatus:
    """How a run goes; one object of `whale status --json`."""

    run: Path
    """The run folder."""
    task: str
    """Words of the command."""
    state: str
    """Running, stopped (after a signal, saved), finished, failed, or killed (the process is gone without a word)."""
    note: str
    """More on the state: the signal, the error, how it is known."""
    host: str
    """Where the main process of the last attempt runs or ran."""
    pid: int
    """That process."""
    slurm_job: str | None
    """Its job."""
    world_size: int
    """Processes that train."""
    started: datetime
    """When the last attempt started."""
    ended: datetime | None
    """When it ended; None while it runs, and where it was killed."""
    silent_sec: float
    """Seconds since it started or last logged a line."""
    restarts: int
    """Attempts before it."""
    step: int
    """The last step known to be done: of a run that did not say at its end, the last one logged."""
    steps: int
    """Steps in all."""
    steps_per_sec: float | None
    """Recent rate of training in the last attempt, validation not counted."""
    eta_sec: float | None
    """Seconds to go at the recent pace, validation and saving counted; None unless the run is running."""
    checkpoint_step: int | None
    """Step of the newest complete checkpoint."""
    checkpoint_age_sec: float | None
    """Seconds since it was made."""
    loss: float | None
    """The last one logged; None where there is none, or it was not finite."""
    validation_step: int | None
    """Step of the newest validation."""
    validation: dict[str, float | None]
    """Its figures."""


def find_runs(folder: Path) -> list[Path]:
    """The run in a folder, and those in its subfolders (the tokenizer of an adaptation; the runs of a project).

    Raises:
        UserError: there is none.
    """
    runs = list(_walk(folder))
    if not runs:
        lacks = f"has no {STATUS_FILE}, nor has a folder in it" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{folder} is no run folder: it {lacks}", "name the folder that the configuration gives as `run`"
        )
    return runs


def _walk(folder: Path) -> Iterator[Path]:
    if (folder / STATUS_FILE).is_file():
        yield folder
    for path in sorted(folder.glob(f"*/{STATUS_FILE}")):
        yield from _walk(path.parent)


def run_status(folder: Path) -> RunStatus:
    """How the run in `folder` goes.

    Raises:
        UserError: its `status.json` or `metrics.jsonl` is damaged.
    """
    record, metrics, now = read_record(folder), _Metrics(folder / METRICS_FILE), time.time()
    started_sec, validation = record.started.timestamp(), metrics.newest(b'"val/')
    recent = metrics.since(started_sec)
    times_sec = [line["time_sec"] for line in recent] or [started_sec]
    checkpoint = next(reversed(find_checkpoints(folder / "checkpoints")), None)
    saved_sec = (checkpoint.folder / COMPLETE).stat().st_mtime if checkpoint else None
    state, note = _state(folder, record, times_sec, now)
    step, pairs = _step(record, recent, checkpoint), list(pairwise(recent))
    pace = _per_sec(pairs)
    return RunStatus(
        run=folder, task=record.task, state=state, note=note, host=record.host, pid=record.pid,
        slurm_job=record.slurm_job, world_size=record.world_size, started=record.started, ended=record.ended,
        silent_sec=now - times_sec[-1], restarts=record.attempt - 1, step=step, steps=record.steps,
        steps_per_sec=_per_sec([pair for pair in pairs if "loss" in pair[1]]),  # a validation's line has no loss
        eta_sec=(record.steps - step) / pace if pace and state == "running" else None,
        checkpoint_step=checkpoint.step if checkpoint else None,
        checkpoint_age_sec=now - saved_sec if saved_sec is not None else None,
        loss=metrics.newest(b'"loss":').get("loss"), validation_step=validation.get("step"),
        validation={name.removeprefix("val/"): value for name, value in validation.items() if name.startswith("val/")},
    )  # fmt: skip


class _Metrics:
    """`metrics.jsonl`, of which only the lines that are asked for are parsed."""

    def __init__(self, path: Path):
        self._path = path
        self._lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []  # the last may be half-written

    def newest(self, marker: bytes) -> dict[str, Any]:
        """The newest line with `marker` in it, or nothing."""
        found = (index for index in reversed(range(len(self._lines))) if marker in self._lines[index])
        return next(map(self._parse, found), {})

    def since(self, time_sec: float) -> list[dict[str, Any]]:
        """The newest lines that were logged after `time_sec`, oldest first."""
        newest = map(self._parse, range(max(0, len(self._lines) - WINDOW), len(self._lines)))
        return [line for line in newest if line["time_sec"] >= time_sec]

    def _parse(self, index: int) -> dict[str, Any]:
        try:
            line: dict[str, Any] = json.loads(self._lines[index])
            if not (isinstance(line["step"], int) and isinstance(line["time_sec"], float)):
                raise TypeError
        except (ValueError, TypeError, KeyError):  # no JSON, no object, or one without step and time
            raise UserError(
                f"{self._path}, line {index + 1} is not a line of metrics: {self._lines[index][:60]!r}",
                "no run writes such a line: remove it",
            ) from None
        return line


def _per_sec(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> float | None:
    """Steps/s over pairs of an earlier and a later line."""
    steps = sum(new["step"] - old["step"] for old, new in pairs)
    seconds = sum(new["time_sec"] - old["time_sec"] for old, new in pairs)
    return steps / seconds if steps and seconds else None


def _step(record: RunRecord, recent: Sequence[dict[str, Any]], checkpoint: Checkpoint | None) -> int:
    if record.step is not None:
        return record.step
    if recent:
        return int(recent[-1]["step"])
    if record.first_step is not None:
        return record.first_step
    return checkpoint.step if checkpoint else 0


def _state(folder: Path, record: RunRecord, times_sec: Sequence[float], now_sec: float) -> tuple[str, str]:
    """State and note. What `status.json` calls running may be dead: the lock tells, or else its silence.

    Args:
        folder: the run folder.
        record: its `status.json`.
        times_sec: when it logged its newest lines, at least one; or when it started.
        now_sec: the time, on the same clock.
    """
    if record.state == "stopped":
        return "stopped", f"by {record.message}; the same command goes on"
    if record.state != "running":
        return record.state, record.message
    held = is_held(folder) if record.locked else None
    if held:
        return "running", "" if record.first_step is not None else "starting up"
    if held is False and record.host == socket.gethostname():
        return "killed", "its process is gone; the same command goes on"
    # A lock that is not seen from another node proves nothing: some filesystems show locks only where they were taken.
    usual_sec = (times_sec[-1] - times_sec[0]) / len(times_sec)
    alive = now_sec - times_sec[-1] < max(SILENT_SEC, 10 * usual_sec)
    return "running" if alive else "killed", "judged by its metrics alone: no lock is seen from here"

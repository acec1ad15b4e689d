"""The `whale` command: `whale <stage> <task> <config.yaml> [more.yaml ...] [key.path=value ...]`, `whale play` of the
same kind, and `whale status`.

The table below is all this module knows of the stages; only the chosen one is imported, so `whale --help` is quick.
"""

import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whale.errors import StoppedError, UserError

TASKS: dict[str, tuple[str, dict[str, str]]] = {
    "data_prep": (
        "whale.data_prep.run",
        {
            "audit": "look at a dataset and say what is wrong with it, as a page and as JSON",
            "collect": "roll graded policies in a simulator and write their episodes as RLDS",
            "convert": "turn RLDS episodes into webdataset tars of pixel clips",
            "fetch": "copy datasets from any address, resumable, with their sizes told first",
            "plan": "estimate size, time and memory of conversions from a measured sample",
            "tokenize": "turn pixel clips into token clips with a trained tokenizer",
            "verify": "rehash every shard and read every clip",
        },
    ),
    "pretrain": (
        "whale.pretrain.run",
        {
            "tokenizer": "train the video tokenizer on pixel clips",
            "dynamics": "train dynamics and behaviour on token clips",
            "export": "publish a checkpoint as a folder that WorldModel.from_pretrained loads",
        },
    ),
    "finetune": ("whale.finetune.run", {"world_model": "adapt an exported world model to a few demonstrations"}),
    "eval": (
        "whale.eval.run",
        {
            "fidelity": "score imagined frames against recorded ones",
            "value": "score imagined returns of policies against their true returns",
            "uncertainty": "ask whether signals of uncertainty know which imagined frames are wrong",
            "planning": "let a planner act in the true tabletop, beside the policies that made the data",
            "report": "merge results into results.json and a self-contained HTML page",
        },
    ),
}

PLAY = "drive the robot in a world model, on a page in the browser"
STATUS = "state, step, rate, ETA and last checkpoint of runs"


@dataclass(frozen=True)
class Task:
    """What a stage's `run.py` lists under a task's name."""

    config: type
    run: Callable[[Any], int | None]
    """Returns the exit code; None is 0."""
    plan: Callable[[Any], str] | None = None
    """What `--dry-run` prints; None where there is nothing to plan."""


def _usage(stage: str | None = None) -> str:
    words = "<config.yaml> [more.yaml ...] [key.path=value ...] [--print-config | --dry-run]"
    lines = [f"usage: whale <stage> <task> {words}", ""]
    for name, (_, tasks) in TASKS.items():
        if stage in (None, name):
            lines += [f"  {name:<10} {task:<12} {line}" for task, line in tasks.items()]
    if stage is None:
        lines += [f"  {'play':<10} {'':<12} {PLAY}"]
        lines += [f"  {'status':<10} {'RUN ...':<12} {STATUS}"]
    return "\n".join([*lines, "", "`whale <stage> <task> --help` lists every key of the task's configuration."])


def _task_usage(called: str, line: str, task: Task) -> str:
    from whale.config_docs import field_docs

    flags = "[--print-config | --dry-run]" if task.plan else "[--print-config]"
    head = f"usage: whale {called} <config.yaml> [more.yaml ...] [key.path=value ...] {flags}"
    keys = [f"  {key}\n      {text}" for key, text in field_docs(task.config).items()]
    return "\n".join([head, "", line, "", *keys])


def _status_usage() -> str:
    return "\n".join([
        "usage: whale status RUN [RUN ...] [--json]", "", STATUS, "",
        "RUN is a run folder, or one that holds several. One is shown as a paragraph for each run in it, several as a",
        "table; --json prints a list of objects for scripts. Nothing is written or locked.",
    ])  # fmt: skip


def _choose(kind: str, name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    import difflib

    near = difflib.get_close_matches(name, known, 1)
    remedy = (f"did you mean {near[0]!r}? " if near else "") + f"choose one of: {', '.join(known)}"
    raise UserError(f"there is no {kind} {name!r}", remedy)


def _run(called: str, line: str, task: Task, words: Sequence[str]) -> int:
    """Run a task: `called` is what it is called by, `line` says what it does, `words` are those behind its name."""
    from whale.config import dump_config, load_config
    from whale.config_docs import field_docs

    flags = [word for word in words if word.startswith("-")]
    for flag in flags:
        _choose("flag", flag, ["--print-config", "--dry-run", "--help", "-h"])
    if "--help" in flags or "-h" in flags:
        sys.stdout.write(_task_usage(called, line, task) + "\n")
        return 0
    if "--dry-run" in flags and task.plan is None:
        raise UserError(
            f"--dry-run: {called} trains nothing whose cost could be told beforehand",
            "leave the flag out; `--print-config` shows the configuration and stops",
        )
    files = [Path(word) for word in words if word not in flags and "=" not in word]
    config: Any = load_config(task.config, files, [word for word in words if word not in flags and "=" in word])
    if "--print-config" in flags:
        notes = "".join(f"# {key}: {text}\n" for key, text in field_docs(task.config).items())
        sys.stdout.write(f"{notes}\n{dump_config(config)}")
        return 0
    if "--dry-run" in flags and task.plan is not None:
        sys.stdout.write(task.plan(config) + "\n")
        return 0
    return task.run(config) or 0


def _status(words: Sequence[str]) -> None:
    flags = [word for word in words if word.startswith("-")]
    for flag in flags:
        _choose("flag", flag, ["--json", "--help", "-h"])
    if "--help" in flags or "-h" in flags:
        sys.stdout.write(_status_usage() + "\n")
        return
    folders = [Path(word) for word in words if word not in flags]
    if not folders:
        raise UserError("no run folder is named", "name at least one: whale status RUN [RUN ...]")
    from whale.status import find_runs, run_status
    from whale.status_text import as_blocks, as_json, as_table

    statuses = [run_status(run) for folder in folders for run in find_runs(folder)]
    show = as_json if "--json" in flags else as_blocks if len(folders) == 1 else as_table
    sys.stdout.write(show(statuses) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one task; exit code 0, 1 where the task found its data wanting, 2 for an error that the user can put right,
    75 for a run stopped by a signal.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        if not words or words[0] in ("-h", "--help"):
            sys.stdout.write(_usage() + "\n")
            return 0
        stage, *rest = words
        if stage == "status":
            _status(rest)
            return 0
        if stage == "play":
            return _run("play", PLAY, importlib.import_module("whale.play.run").TASK, rest)
        _choose("stage", stage, [*TASKS, "play", "status"])
        if not rest or rest[0] in ("-h", "--help"):
            sys.stdout.write(_usage(stage) + "\n")
            return 0
        name, *rest = rest
        _choose(f"task of {stage}", name, list(TASKS[stage][1]))
        task = importlib.import_module(TASKS[stage][0]).TASKS[name]
        return _run(f"{stage} {name}", TASKS[stage][1][name], task, rest)
    except UserError as error:
        sys.stderr.write(f"whale: {error}\n")
        return 2
    except StoppedError as stopped:
        if os.environ.get("RANK", "0") == "0":  # once, not from every rank
            sys.stderr.write(f"whale: {stopped}; the same command goes on\n")
        return StoppedError.EXIT_CODE
    except OSError as error:  # any file of a run can be the one for which there is no room left
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        sys.stderr.write(f"whale: a disk or a quota is full: {error}\n  remedy: make room; the same command goes on\n")
        return 2
    return 0

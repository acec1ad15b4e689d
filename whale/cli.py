"""The `whale` command: `whale <stage> <task> <config.yaml> [more.yaml ...] [key.path=value ...]`.

The table below is all this module knows of the stages; only the chosen one is imported, so `whale --help` is quick.
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whale.errors import UserError

TASKS: dict[str, tuple[str, dict[str, str]]] = {
    "data_prep": (
        "whale.data_prep.run",
        {
            "collect": "roll graded policies in a simulator and write their episodes as RLDS",
            "convert": "turn RLDS episodes into webdataset tars of pixel clips",
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
            "report": "merge results into results.json and a self-contained HTML page",
        },
    ),
}


@dataclass(frozen=True)
class Task:
    """What a stage's `run.py` lists under a task's name."""

    config: type
    run: Callable[[Any], None]


def _usage(stage: str | None = None) -> str:
    lines = ["usage: whale <stage> <task> <config.yaml> [more.yaml ...] [key.path=value ...] [--print-config]", ""]
    for name, (_, tasks) in TASKS.items():
        if stage in (None, name):
            lines += [f"  {name:<10} {task:<12} {line}" for task, line in tasks.items()]
    return "\n".join(lines)


def _choose(kind: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise UserError(f"there is no {kind} {name!r}", f"choose one of: {', '.join(known)}")


def _describe(cls: type) -> dict[str, str]:
    """Field docstrings by dotted key."""
    from whale.config_docs import field_docs

    return field_docs(cls)


def _run(arguments: list[str]) -> None:
    from whale.config import dump_config, load_config

    stage, task_name, *rest = arguments
    module, _ = TASKS[stage]
    task: Task = importlib.import_module(module).TASKS[task_name]
    flags = [word for word in rest if word.startswith("--")]
    for flag in flags:
        _choose("flag", flag, ["--print-config"])
    words = [word for word in rest if not word.startswith("--")]
    files = [Path(word) for word in words if "=" not in word]
    config = load_config(task.config, files, [word for word in words if "=" in word])
    if flags:
        notes = "".join(f"# {key}: {text}\n" for key, text in _describe(task.config).items())
        sys.stdout.write(f"{notes}\n{dump_config(config)}")
        return
    task.run(config)


def main(argv: list[str] | None = None) -> int:
    """Run one task; exit code 0, 2 for an error that the user can put right, or whatever the task exits with."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            sys.stdout.write(_usage() + "\n")
            return 0
        _choose("stage", arguments[0], list(TASKS))
        if len(arguments) == 1 or arguments[1] in ("-h", "--help"):
            sys.stdout.write(_usage(arguments[0]) + "\n")
            return 0
        _choose(f"task of {arguments[0]}", arguments[1], list(TASKS[arguments[0]][1]))
        _run(arguments)
    except UserError as error:
        sys.stderr.write(f"whale: {error}\n")
        return 2
    return 0

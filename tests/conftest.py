"""What the tests of the whole tree share: where it lies, and how a written `whale` command is read."""

import importlib
import shlex
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from whale import cli, config

REPO = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("shared machine", deadline=None)  # how long an example takes is not its matter
hypothesis.settings.load_profile("shared machine")


class WrittenCommand:
    """A `whale ...` command as a document spells it, with the configuration it would run with."""

    def __init__(self, text: str):
        self.words = shlex.split(text, comments=True)
        self.words = self.words[self.words.index("whale") + 1 :]

    def config(self) -> Any:
        stage, task = self.words[:2]
        assert stage in cli.TASKS, f"no stage {stage!r}"
        module, tasks = cli.TASKS[stage]
        assert task in tasks, f"{stage} has no task {task!r}"
        cls = importlib.import_module(module).TASKS[task].config
        rest = [word for word in self.words[2:] if word not in ("--print-config", "--help")]
        overrides = [word for word in rest if "=" in word]
        files = [REPO / word for word in rest if "=" not in word]
        return config.load_config(cls, files, overrides)


@pytest.fixture(scope="session")
def written_command() -> type[WrittenCommand]:
    return WrittenCommand

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

    def task(self) -> cli.Task:
        """The task that it names; fails where there is none."""
        if self.words[0] == "play":
            return importlib.import_module("whale.play.run").TASK
        stage, name = self.words[:2]
        assert stage in cli.TASKS, f"no stage {stage!r}"
        module, tasks = cli.TASKS[stage]
        assert name in tasks, f"{stage} has no task {name!r}"
        return importlib.import_module(module).TASKS[name]

    def config(self) -> Any:
        """What its files and overrides make of the task's configuration; fails where they do not load."""
        rest = [word for word in self.words[1 if self.words[0] == "play" else 2 :] if not word.startswith("-")]
        files = [REPO / word for word in rest if "=" not in word]
        return config.load_config(self.task().config, files, [word for word in rest if "=" in word])


@pytest.fixture(scope="session")
def written_command() -> type[WrittenCommand]:
    return WrittenCommand


@pytest.fixture
def known_cpu() -> None:
    """Skip where nobody has looked at the last bits: libraries choose kernels, and so orders of sums, by the CPU."""
    cpu = Path("/proc/cpuinfo")
    about = cpu.read_text() if cpu.exists() else ""
    if "AuthenticAMD" not in about or "avx512f" not in about:
        pytest.skip("bits in float32 are compared on AMD processors with AVX-512 alone")

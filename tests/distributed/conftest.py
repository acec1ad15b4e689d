"""Real processes for every test here."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launch import Launcher, serving
from tiny_runs import TinyRuns, prepare


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyRuns:
    return prepare(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def launcher(tmp_path_factory) -> Iterator[Launcher]:
    with serving() as server:
        yield Launcher(server, tmp_path_factory.mktemp("launched"))


@pytest.fixture(autouse=True)
def nothing_left_running(launcher) -> Iterator[None]:
    yield
    launcher.clean_up()


@pytest.fixture(scope="session")
def train(tiny, launcher, tmp_path_factory) -> Callable[..., Path]:
    """A run that is left alone: `train(task, ranks, **settings)` gives its folder; trained once for all tests."""
    done: dict[str, Path] = {}

    def run(task: str, ranks: int, **settings: object) -> Path:
        key = repr((task, ranks, sorted(settings.items())))
        if key not in done:
            done[key] = tmp_path_factory.mktemp("alone") / "run"
            launcher.run(*tiny.words(task, done[key], **settings), ranks=ranks)
        return done[key]

    return run

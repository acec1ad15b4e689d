"""Every shipped configuration says what it is, and loads."""

import re
from pathlib import Path

import pytest
import yaml

from whale.config import dump_config, load_config

REPO = Path(__file__).resolve().parent.parent
FILES = sorted(str(path.relative_to(REPO)) for path in (REPO / "configs").rglob("*.y*ml"))


def header_of(name: str) -> str:
    """The comment that opens a file, without its `#`; lines ending in a backslash are joined."""
    lines = []
    for line in (REPO / name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))


def command_in(header: str, name: str) -> str:
    """The line of the header that runs this file."""
    lines = [re.sub(r"^.*?\bwhale ", "whale ", line).strip("` ") for line in header.splitlines()]
    running = [line for line in lines if line.startswith("whale ") and name in line.split()]
    assert running, f"the header of {name} does not show the `whale <stage> <task> {name}` that runs it"
    return running[0]


def test_configurations_are_yaml_in_the_folder_of_a_stage():
    folders = {"data_prep", "pretrain", "finetune", "eval", "play", "cluster"}
    assert [name for name in FILES if not name.endswith(".yaml") or name.split("/")[1] not in folders] == []


@pytest.mark.parametrize("name", FILES)
def test_it_opens_with_a_comment_that_shows_its_command(name, written_command):
    header = header_of(name)
    words = written_command(command_in(header, name)).words
    assert name.split("/")[1] in (words[0], "cluster")
    assert len(header.splitlines()) >= 2, f"{name} says no more than its command"


@pytest.mark.parametrize("name", FILES)
def test_it_loads_and_what_is_dumped_loads_equal(name, written_command, tmp_path):
    config = written_command(command_in(header_of(name), name)).config()
    dumped = tmp_path / "dumped.yaml"
    dumped.write_text(dump_config(config), encoding="utf-8")
    assert load_config(type(config), [dumped]) == config


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("configs/cluster/")])
def test_an_overlay_of_a_cluster_says_nothing_of_what_is_learned(name):
    """Devices and how the work is spread over them; everything else is said by the configuration before it."""
    assert set(yaml.safe_load((REPO / name).read_text(encoding="utf-8"))) == {"engine"}

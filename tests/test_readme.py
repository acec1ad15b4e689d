"""What README.md tells people to type is what there is."""

import json
import re
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def read(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """The contents of the fenced code blocks, lines ending in a backslash joined."""
    fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s*\\\n\s*", " ", block) for block in fenced]


def commands_in(block: str) -> list[str]:
    """The `whale` commands of a block, one line each, without prompt, path and trailing comment."""
    lines = [re.sub(r"^(\$ )?(\.venv/bin/)?", "", line.strip()) for line in block.splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.startswith("whale ")]


def written_commands(text: str) -> list[str]:
    inline = re.findall(r"`(whale [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    found = [command for block in blocks(text) for command in commands_in(block)] + inline
    return [command for command in found if not re.search(r"<|\.\.\.|…", command)]  # patterns are no commands


def demo_commands() -> list[str]:
    return [line.removeprefix("stage ") for line in read("demo.sh").splitlines() if line.startswith("stage whale ")]


def test_every_command_of_the_readme_loads_its_configuration(written_command):
    commands = written_commands(read("README.md"))
    assert commands
    for text in commands:
        command = written_command(text)
        named = [word for word in command.words if not word.startswith("-")]
        if len(named) == 2:
            command.task()
        elif len(named) > 2:
            command.config()


def test_every_command_of_the_demo_loads_its_configuration(written_command):
    commands = demo_commands()
    assert len(commands) > 10
    for text in commands:
        written_command(text).config()


def test_the_pipeline_in_the_readme_is_the_one_that_the_demo_runs():
    assert demo_commands() in [commands_in(block) for block in blocks(read("README.md"))]


def test_the_readme_names_the_ways_in():
    text = read("README.md")
    for command in ("make demo", "make test"):
        assert command in text
        assert re.search(rf"^{command.split()[1]}:", read("Makefile"), flags=re.MULTILINE)


def test_make_demo_runs_the_demo():
    assert re.search(r"^demo:.*\n\t\./demo\.sh$", read("Makefile"), flags=re.MULTILINE)


def test_relative_links_of_the_documents_lead_somewhere():
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", read(name)):
            if "://" not in target:
                assert (REPO / target).exists(), f"{name} links to {target}"


def test_the_results_table_shows_the_committed_results():
    figures = {figure["name"]: figure for figure in json.loads(read("docs/demo/results.json"))["figures"]}
    rows = re.findall(r"^\| `(\w+)` \| ([-\d.]+)(?: dB)? \| ([-\d.]+) to ([-\d.]+) \|", read("README.md"), re.MULTILINE)
    assert len(rows) >= 12
    for name, *shown in rows:
        assert shown == [f"{figures[name][key]:.2f}" for key in ("value", "low", "high")], name
    assert {name for name, figure in figures.items() if figure["need"]} <= {name for name, *_ in rows}
    assert json.loads(read("docs/demo/results.json"))["environment"]["commit"] in read("README.md")

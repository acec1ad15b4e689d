"""The rules of the tree: what may import what, where heavy dependencies live, how large files grow."""

import ast
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import tomllib

REPO = Path(__file__).resolve().parent.parent
STAGES = ("data_prep", "pretrain", "finetune", "eval")
# Heavy dependency -> the only files that may import it, and only inside a function.
HEAVY = {
    "tensorflow": ("data_prep/rlds.py", "data_prep/rlds_writer.py"),
    "tensorflow_datasets": ("data_prep/rlds.py", "data_prep/rlds_writer.py"),
    "decord": ("data_prep/video.py",),
    "av": ("data_prep/video.py",),
    "cv2": ("data_prep/images.py",),
    "simplejpeg": ("data_prep/images.py",),
    "google_crc32c": ("data_prep/tfrecord.py",),
    "fsspec": ("data_prep/files.py",),
    "pyarrow": ("data_prep/lerobot.py",),
    "webdataset": ("whale/clips/",),
    "deepspeed": ("whale/zero.py", "whale/zero_files.py"),
    "accelerate": ("whale/engine.py", "data_prep/tokenize.py"),
    "huggingface_hub": ("whale/hub.py",),
    "wandb": ("whale/tracker.py",),
    "metaworld": ("whale/sim/metaworld.py",),
    "mujoco": ("whale/sim/metaworld.py",),
    "gymnasium": ("whale/env.py",),
    "fastapi": ("whale/play/server.py",),
    "uvicorn": ("whale/play/server.py",),
    "jinja2": ("eval/report.py", "data_prep/audit_page.py"),
    "matplotlib": ("eval/plots.py",),
}
# The one file that imports its heavy dependency at the top, for a subclass needs its base; so nothing imports this file
# but inside a function.
SUBCLASSES = {"gymnasium": "whale/env.py"}
LIGHT = {"numpy", "torch", "PIL", "pydantic", "yaml", "safetensors", "whale"}
TABLES = {
    f"data_prep/oxe/{name}.py"
    for name in ("registry", "registry_arms", "registry_franka", "registry_rtx", "transforms", "mixtures")
}
"""Tables of Open X-Embodiment datasets: data, not counted as program."""


class Import(NamedTuple):
    file: str
    line: int
    module: str
    """Absolute dotted name."""
    deferred: bool
    """Inside a function, or seen by type checkers only."""


def program_files() -> list[Path]:
    return [file for folder in ("whale", *STAGES) for file in sorted((REPO / folder).rglob("*.py"))]


def imports_of(file: Path) -> Iterator[Import]:
    name = str(file.relative_to(REPO))

    def visit(node: ast.AST, deferred: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(name, node.lineno, alias.name, deferred) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: import by the full name"
            yield from (Import(name, node.lineno, f"{node.module}.{alias.name}", deferred) for alias in node.names)
        deferred = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        deferred = deferred or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for child in ast.iter_child_nodes(node):
            yield from visit(child, deferred)

    yield from visit(ast.parse(file.read_text()), False)


IMPORTS = [found for file in program_files() for found in imports_of(file)]


def stage_of(module: str) -> str | None:
    return next((stage for stage in STAGES if f"{module}.".startswith(f"whale.{stage}.")), None)


def where(found: list[Import]) -> list[str]:
    return [f"{one.file}:{one.line}: {one.module}" for one in found]


def test_the_imports_are_seen():
    assert any(one.file == "whale/cli.py" and one.module == "whale.errors.UserError" for one in IMPORTS)
    assert any(one.file == "whale/tracker.py" and one.module == "wandb" and one.deferred for one in IMPORTS)
    assert any(one.file == "whale/config.py" and one.module == "yaml" and not one.deferred for one in IMPORTS)


def test_core_imports_no_stage():
    assert where([one for one in IMPORTS if one.file.startswith("whale/") and stage_of(one.module)]) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_core_and_itself_only(stage):
    own = [one for one in IMPORTS if one.file.startswith(f"{stage}/")]
    assert where([one for one in own if stage_of(one.module) not in (None, stage)]) == []


def test_stages_are_imported_by_their_installed_name():
    assert where([one for one in IMPORTS if one.module.partition(".")[0] in STAGES]) == []


@pytest.mark.parametrize("package", HEAVY)
def test_a_heavy_dependency_stays_in_its_file_and_inside_a_function(package):
    found = [one for one in IMPORTS if one.module.partition(".")[0] == package]
    assert where([one for one in found if not one.file.startswith(HEAVY[package])]) == []
    assert where([one for one in found if not one.deferred and one.file != SUBCLASSES.get(package)]) == []


def test_a_file_of_subclasses_is_imported_inside_functions_alone_and_loads_its_one_dependency():
    found = [one for one in IMPORTS if f"{one.module}.".startswith("whale.env.")]
    assert where([one for one in found if not one.deferred]) == []
    script = f"import sys\nimport whale.env\nassert set(sys.modules) & set({list(HEAVY)}) == {{'gymnasium'}}\n"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_everything_else_comes_with_python_or_with_the_core_package():
    known = LIGHT | set(HEAVY) | sys.stdlib_module_names
    assert where([one for one in IMPORTS if one.module.partition(".")[0] not in known]) == []


def test_the_core_package_needs_only_what_it_declares():
    declared = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {"pillow": "PIL", "pyyaml": "yaml"}
    packages = {names.get(one, one) for one in (line.partition(">=")[0] for line in declared)}
    assert packages == LIGHT - {"whale"} | {"webdataset", "accelerate", "huggingface_hub"}


def test_importing_everything_loads_nothing_heavy_prints_nothing_and_seeds_nothing():
    packages = {"whale": "whale", **{f"whale.{stage}": stage for stage in STAGES}}
    modules = [
        ".".join([package, *file.relative_to(REPO / folder).with_suffix("").parts]).removesuffix(".__init__")
        for package, folder in packages.items()
        for file in sorted((REPO / folder).rglob("*.py"))
        if file.name != "__main__.py" and str(file.relative_to(REPO)) not in SUBCLASSES.values()
    ]
    script = (
        "import importlib, os, sys\nimport numpy, torch\n"
        "def state():\n    seeds = torch.initial_seed(), numpy.random.get_state()[1].tolist()\n"
        "    return dict(os.environ), seeds, torch.get_num_threads()\n"
        f"before = state()\nfor name in {modules}:\n    importlib.import_module(name)\n"
        f"assert before == state(), 'importing changed the process'\n"
        f"loaded = set(sys.modules) & set({list(HEAVY)})\nassert not loaded, loaded\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")


def test_the_command_line_alone_loads_neither_torch_nor_numpy():
    script = "import sys\nimport whale.cli\nassert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("word", ["utils", "util", "helpers", "helper", "common", "misc"])
def test_no_file_is_called_by_nothing(word):
    folders = ("whale", *STAGES, "tests", "benchmarks")
    named = [file for folder in folders for file in (REPO / folder).rglob("*.py") if word in file.stem.split("_")]
    assert named == []


@pytest.mark.filterwarnings("default")
def test_files_stay_small_and_the_program_too():
    lines = {str(file.relative_to(REPO)): len(file.read_text().splitlines()) for file in program_files()}
    counted = {name: count for name, count in lines.items() if name not in TABLES}
    for name, count in counted.items():
        if 300 < count <= 400:
            warnings.warn(f"{name} has {count} lines; aim at 80 to 250", stacklevel=1)
    assert {name: count for name, count in counted.items() if count > 400} == {}
    assert sum(counted.values()) < 21_500

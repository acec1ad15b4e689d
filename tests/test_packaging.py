import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

import pytest
import tomllib

REPO = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
STAGES = ("data_prep", "pretrain", "finetune", "eval")
# Extra -> what it must make importable.
EXTRAS = {
    "": ["whale.cli", "whale.sim.tabletop", "whale.engine", "torch", "accelerate"],
    "data": ["aiohttp", "av", "cv2", "decord", "fsspec", "google_crc32c", "jinja2", "pyarrow", "simplejpeg"],
    "tensorflow": ["tensorflow", "tensorflow_datasets"],
    "deepspeed": ["deepspeed"],
    "sim": ["gymnasium", "metaworld", "mujoco"],
    "env": ["gymnasium"],
    "eval": ["jinja2", "matplotlib"],
    "play": ["fastapi", "uvicorn"],
    "wandb": ["wandb"],
    "dev": ["hypothesis", "mypy", "pytest", "scipy", "xdist", "yaml"],
}


def source_tree(target: Path) -> Path:
    """A copy of what the build reads, so that nothing stale is packed and nothing is left in the checkout."""
    target.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(REPO / name, target)
    for name in ("whale", *STAGES):
        shutil.copytree(REPO / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return target


def packages_on_disk() -> set[str]:
    folders = {file.parent.relative_to(REPO) for name in ("whale", *STAGES) for file in (REPO / name).rglob("*.py")}
    dotted = {".".join(folder.parts) for folder in folders}
    return {name if name.partition(".")[0] == "whale" else f"whale.{name}" for name in dotted}


def test_the_package_list_equals_the_folders_on_disk():
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk()
    places = PROJECT["tool"]["setuptools"]["package-dir"]
    assert places == {"whale": "whale", **{f"whale.{stage}": stage for stage in STAGES}}
    for name in listed:
        root = next(place for place in sorted(places, key=len, reverse=True) if f"{name}.".startswith(f"{place}."))
        assert (REPO / places[root] / "/".join(name.removeprefix(root).split("."))[1:] / "__init__.py").is_file(), name


def test_the_version_is_said_once():
    import whale

    assert whale.__version__ == PROJECT["project"]["version"]


def test_every_extra_is_tried_alone_and_every_dependency_is_pinned():
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras) == set(EXTRAS) - {""}
    needed = [*PROJECT["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]
    pinned = {line.partition("==")[0].lower() for line in (REPO / "constraints.txt").read_text().splitlines()}
    assert {line.partition(">=")[0].lower() for line in needed} <= pinned


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    tree, out = source_tree(tmp_path / "tree"), tmp_path / "out"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", out, tree]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = out.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    inside = {name for name in names if not name.startswith(f"whale-{PROJECT['project']['version']}.dist-info/")}
    sources = {file.relative_to(tree) for name in ("whale", *STAGES) for file in (tree / name).rglob("*.py")}
    expected = {str(file if file.parts[0] == "whale" else Path("whale") / file) for file in sources}
    assert {name for name in inside if name.endswith(".py")} == expected
    assert {name for name in inside if not name.startswith("whale/")} == set()
    assert "whale/py.typed" in inside
    for pattern in ("clips/*.md", "play/*.html", "data_prep/templates/*", "eval/templates/*"):
        shipped = {Path(name).name for name in inside if Path(name).match(f"whale/{pattern}")}
        root = tree / ("whale" if pattern.startswith(("clips", "play")) else "")
        assert shipped == {file.name for file in root.glob(pattern)}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_installs_alone(tmp_path, extra):
    tree = source_tree(tmp_path / "tree")
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:  # gigabytes, so not kept as tmp_path is
        try_alone(Path(folder), tree, extra)


def try_alone(folder: Path, tree: Path, extra: str) -> None:
    venv.create(folder, with_pip=True)
    bin_folder = folder / "bin"
    what = f"{tree}[{extra}]" if extra else str(tree)
    subprocess.run([bin_folder / "pip", "install", "--quiet", "-c", REPO / "constraints.txt", what], check=True)
    subprocess.run([bin_folder / "pip", "check"], check=True)
    script = f"import importlib\nfor name in {EXTRAS[extra]}:\n    importlib.import_module(name)\n"
    subprocess.run([bin_folder / "python", "-c", script], check=True, cwd=folder)
    subprocess.run([bin_folder / "whale", "--help"], check=True, cwd=folder)

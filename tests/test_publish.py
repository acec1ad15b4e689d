import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whale.publish import publish_file, publish_folder, write_json

OLD, NEW = b"old" * 100_000, b"new" * 100_000


def start_writer(body: str) -> subprocess.Popen[str]:
    """Run `body` in another process, up to the line `ready()`, where it waits to be killed."""
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom whale.publish import publish_file, publish_folder\n"
        "def ready():\n    print('ready', flush=True)\n    time.sleep(600)\n" + body
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_whole_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    with publish_file(path) as temporary:
        temporary.write_bytes(OLD)
        assert not path.exists()
    assert path.read_bytes() == OLD
    assert names(path.parent) == ["file.bin"]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    with pytest.raises(RuntimeError, match="stop"), publish_file(path) as temporary:
        temporary.write_bytes(NEW)
        raise RuntimeError("stop")
    assert path.read_bytes() == OLD
    assert names(tmp_path) == ["file.bin"]


def test_a_writer_killed_midway_leaves_the_old_file_and_the_next_writer_cleans_up(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    writer = start_writer(
        f"with publish_file(Path({str(path)!r})) as temporary:\n"
        "    file = temporary.open('wb')\n    file.write(b'new' * 50_000)\n    file.flush()\n    ready()\n"
    )
    kill(writer)
    assert path.read_bytes() == OLD
    assert all(name == "file.bin" or name.startswith(".tmp-") for name in names(tmp_path))
    with publish_file(path) as temporary:
        temporary.write_bytes(NEW)
    assert path.read_bytes() == NEW
    assert names(tmp_path) == ["file.bin"]


def test_a_reader_sees_one_whole_file_or_the_other_while_writers_are_killed(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    script = (
        f"from pathlib import Path\nfrom whale.publish import publish_file\nprint('ready', flush=True)\n"
        f"while True:\n    for content in (b'old' * 100_000, b'new' * 100_000):\n"
        f"        with publish_file(Path({str(path)!r})) as temporary:\n            temporary.write_bytes(content)\n"
    )
    seen: set[bytes] = set()
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 30
        while len(seen) < 2 and time.monotonic() < deadline:
            seen.add(path.read_bytes())
        kill(writer)
        seen.add(path.read_bytes())
    assert seen == {OLD, NEW}


def test_a_folder_appears_whole_and_replaces_an_earlier_one(tmp_path):
    path = tmp_path / "export"
    for content in ("one", "two"):
        with publish_folder(path) as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / content).write_text(content)
            assert not (path / "inner" / content).exists()
        assert [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()] == [f"inner/{content}"]
    assert names(tmp_path) == ["export"]


def test_an_exception_leaves_the_old_folder_and_nothing_else(tmp_path):
    path = tmp_path / "export"
    with publish_folder(path) as temporary:
        (temporary / "file").write_text("old")
    with pytest.raises(RuntimeError, match="stop"), publish_folder(path) as temporary:
        (temporary / "file").write_text("new")
        raise RuntimeError("stop")
    assert (path / "file").read_text() == "old"
    assert names(tmp_path) == ["export"]


def test_a_folder_writer_killed_midway_leaves_the_old_folder(tmp_path):
    path = tmp_path / "export"
    with publish_folder(path) as temporary:
        (temporary / "file").write_text("old")
    writer = start_writer(
        f"with publish_folder(Path({str(path)!r})) as temporary:\n"
        "    (temporary / 'file').write_text('ne')\n    ready()\n"
    )
    kill(writer)
    assert (path / "file").read_text() == "old"
    with publish_folder(path) as temporary:
        assert list(temporary.iterdir()) == []
        (temporary / "file").write_text("new")
    assert (path / "file").read_text() == "new"
    assert names(tmp_path) == ["export"]


@pytest.mark.parametrize("renames", [0, 1, 2, 3])
def test_a_folder_writer_killed_around_its_renames_leaves_a_whole_folder(tmp_path, renames):
    """Killed after any number of its renames, and followed by a writer that fails, it leaves the old or the new."""
    path = tmp_path / "export"
    with publish_folder(path) as temporary:
        (temporary / "file").write_text("old")
    writer = start_writer(
        "rename, done = Path.replace, 0\n"
        "def replace(*args):\n"
        "    global done\n"
        f"    if done == {renames}:\n        ready()\n"
        "    done += 1\n    return rename(*args)\n"
        "Path.replace = replace\n"
        f"with publish_folder(Path({str(path)!r})) as temporary:\n"
        "    (temporary / 'file').write_text('new')\n"
        "ready()\n"
    )
    kill(writer)
    with pytest.raises(RuntimeError, match="stop"), publish_folder(path):
        assert (path / "file").read_text() == ("old" if renames < 2 else "new")
        raise RuntimeError("stop")
    assert (path / "file").read_text() == ("old" if renames < 2 else "new")
    assert names(tmp_path) == ["export"]


def test_an_old_folder_whose_successor_cannot_be_renamed_is_put_back(tmp_path, monkeypatch):
    path = tmp_path / "export"
    with publish_folder(path) as temporary:
        (temporary / "file").write_text("old")
    rename = Path.replace

    def replace(self, target):
        if self == temporary:
            raise OSError("no space left")
        return rename(self, target)

    with pytest.raises(OSError, match="no space"), monkeypatch.context() as patch, publish_folder(path) as temporary:
        (temporary / "file").write_text("new")
        patch.setattr(Path, "replace", replace)
    assert (path / "file").read_text() == "old"
    assert names(tmp_path) == ["export"]


def test_files_that_only_read_are_published_too(tmp_path):
    with publish_folder(tmp_path / "export") as temporary:
        (temporary / "file").write_text("x")
        os.chmod(temporary / "file", 0o444)
    assert (tmp_path / "export" / "file").read_text() == "x"


def test_equal_values_are_equal_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1.5, None], "b": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"x": value})
    assert json.loads(path.read_text()) == 1
    assert names(tmp_path) == ["a.json"]

import pytest
import torch
from torch import nn

from whale.checkpoint import STATE_VERSION, HostCopies, damage, read_state, write_plain
from whale.checkpoint_folder import COMPLETE, Checkpoint, find_checkpoints
from whale.errors import UserError
from whale.ranks import Ranks
from whale.saver import Saver


def save(folder, step, **state):
    model = nn.Linear(3, 2)
    saver = Saver(folder, Ranks(), keep=9, milestones=())
    optimizers = [torch.optim.AdamW(model.parameters())]
    saver.start(step, {"step": step, **state}, lambda path: write_plain(path, model, optimizers, HostCopies()))
    saver.finish()
    return Checkpoint(folder / f"step_{step:07d}", step)


def test_old_checkpoints_are_gone_when_the_last_is_there(tmp_path):
    saver = Saver(tmp_path, Ranks(), keep=1, milestones=(2,))

    def snapshot(folder):
        (folder / "weights").write_bytes(bytes(10))
        return lambda: [folder / "weights"]

    for step in range(1, 5):
        saver.start(step, {"step": step}, snapshot)
    saver.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_0000002", "step_0000004"]


@pytest.fixture
def saved(tmp_path) -> Checkpoint:
    return save(tmp_path, 7)


def test_only_folders_of_a_step_are_checkpoints(saved, tmp_path):
    save(tmp_path, 12)
    for name in ("step_best", "step_", "step_0000007.bak", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / COMPLETE).write_text("{}")
    (tmp_path / "step_0000003").mkdir()  # without COMPLETE
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path)] == [7, 12]


def test_damage_is_named(saved):
    assert damage(saved) is None
    state = saved.folder / "state.json"
    content = state.read_text()
    state.write_text(content.replace("7", "8"))
    assert "state.json does not have the sha256" in damage(saved)
    state.unlink()
    assert damage(saved) == f"{state} is missing"


def test_a_checkpoint_of_an_earlier_version_is_refused(saved):
    assert read_state(save(saved.folder.parent, 8, version=STATE_VERSION))["step"] == 8
    with pytest.raises(UserError, match="step_0000007 was saved by an earlier version"):
        read_state(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe"])
def test_a_complete_file_that_lists_no_hashes_is_a_fault(saved, content):
    (saved.folder / COMPLETE).write_bytes(content)
    assert damage(saved).startswith(f"{saved.folder / COMPLETE} ")

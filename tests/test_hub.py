import json
import pickle
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import TOKEN, Hub
from huggingface_hub import constants
from test_calibration import calibration
from tiny_model import random_model
from tiny_runs import prepare

from whale.calibration import save_calibration
from whale.cli import main
from whale.errors import UserError
from whale.hub import CALIBRATION, FILES, find_export
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel

# huggingface_hub's own upload of large files.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    huggingface_hub.close_session()
    yield hub
    huggingface_hub.close_session()
    hub.close()


@pytest.fixture(scope="module")
def model() -> WorldModel:
    model = random_model().float()
    model.record = {"step": 3, "figures": {"psnr": 20.5}, "tokenizer": {"step": 2}}
    return model


@pytest.fixture
def files(model, tmp_path) -> dict[str, bytes]:
    """Of an export, by name."""
    model.save_pretrained(tmp_path / "export")
    return {name: (tmp_path / "export" / name).read_bytes() for name in FILES}


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_what_is_pushed_comes_back_to_the_bit(hub, model, tmp_path):
    model.save_pretrained(tmp_path / "export")
    local = WorldModel.from_pretrained(tmp_path / "export")
    address = local.push_to_hub("lab/whale", token=TOKEN, commit_message="Ours")
    repo = hub.repositories["lab/whale"]
    assert address.startswith(f"{hub.url}/lab/whale/commit/") and repo.messages[-1] == "Ours" and len(repo.commits) == 2
    loaded = WorldModel.from_pretrained("lab/whale", token=TOKEN)
    assert same(loaded, model) and not loaded.training
    assert loaded.checkpoint_hash == local.checkpoint_hash and loaded.record == local.record == model.record
    assert loaded.config == model.config
    inside = VideoTokenizer.from_pretrained("lab/whale", token=TOKEN)
    assert same(inside, model.tokenizer) and inside.record == {"step": 2}
    for file in FILES:  # the very files of the local export
        assert repo.commits[repo.branches["main"]][file] == (tmp_path / "export" / file).read_bytes()


def test_a_calibration_is_published_fetched_and_left_with_the_weights_it_is_of(hub, model, tmp_path):
    model.save_pretrained(tmp_path / "export")
    local = WorldModel.from_pretrained(tmp_path / "export")
    save_calibration(tmp_path / "export", local, calibration(local.checkpoint_hash))
    local.push_to_hub("lab/whale", token=TOKEN)
    assert WorldModel.from_pretrained("lab/whale").calibration == local.calibration
    repo = hub.repositories["lab/whale"]
    assert repo.at("main")[1][CALIBRATION] == (tmp_path / "export" / CALIBRATION).read_bytes()
    random_model(seed=1).float().push_to_hub("lab/whale", token=TOKEN)  # other weights, not calibrated
    assert CALIBRATION not in repo.at("main")[1]
    assert WorldModel.from_pretrained("lab/whale").calibration is None
    local.push_to_hub("lab/whale", token=TOKEN, revision="wide", private=False)
    assert WorldModel.from_pretrained("lab/whale", revision="wide").calibration == local.calibration


def test_places_of_this_machine_are_not_published(hub, tmp_path):
    model = random_model().float()
    model.record = {
        "config": {"run": "/home/someone/runs/one", "tokenizer": "runs/tokenizer/export", "data": {"sources": [
            {"folder": "/home/someone/viola/clips"}, {"folder": "/scratch/someone/jaco/clips"}
        ]}},
        "data": {"/home/someone/viola/clips": "hash of viola", "/scratch/someone/jaco/clips": "hash of jaco"},
        "tokenizer": {"config": {"run": "/home/someone/runs/tokenizer"}},
    }  # fmt: skip
    for publish in (
        lambda: model.push_to_hub("lab/one", token=TOKEN),
        lambda: model.save_pretrained(tmp_path / "export", push_to_hub=True, repo_id="lab/two", token=TOKEN),
    ):
        publish()
    assert VideoTokenizer.from_pretrained(tmp_path / "export").record == model.record["tokenizer"]
    for repo in hub.repositories.values():
        files = repo.commits[repo.branches["main"]]
        assert not any(b"someone" in content for content in files.values())
        record = json.loads(files["config.json"])["training"]
        assert record["config"] == {
            "run": "one", "tokenizer": "runs/tokenizer/export",
            "data": {"sources": [{"folder": "clips"}, {"folder": "clips_2"}]},
        }  # fmt: skip
        assert record["data"] == {"clips": "hash of viola", "clips_2": "hash of jaco"}


def test_what_was_fetched_once_is_loaded_without_a_network(hub, files, model, monkeypatch):
    hub.add("lab/whale", files)
    WorldModel.from_pretrained(Path("lab/whale"))  # as a configuration names it
    fetched = len(hub.fetched)
    assert same(WorldModel.from_pretrained("lab/whale", local_files_only=True), model)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert same(WorldModel.from_pretrained("lab/whale"), model)
    assert len(hub.fetched) == fetched
    with pytest.raises(UserError, match=r"no folder 'lab/other', and .* not in the cache"):
        WorldModel.from_pretrained("lab/other")


def test_a_cache_that_another_tool_filled_is_read(files, model, tmp_path):
    root, sha = tmp_path / "elsewhere" / "models--lab--whale", "0" * 39 + "1"
    (root / "refs").mkdir(parents=True)
    (root / "refs/v1").write_text(sha)
    (root / "blobs").mkdir()
    (root / "snapshots" / sha).mkdir(parents=True)
    for name, content in files.items():
        (root / "blobs" / f"blob-of-{name}").write_bytes(content)
        (root / "snapshots" / sha / name).symlink_to(f"../../blobs/blob-of-{name}")
    loaded = WorldModel.from_pretrained(
        "lab/whale", revision="v1", cache_dir=tmp_path / "elsewhere", local_files_only=True
    )
    assert same(loaded, model)
    with pytest.raises(UserError, match="not in the cache"):
        WorldModel.from_pretrained("lab/whale", cache_dir=tmp_path / "elsewhere", local_files_only=True)


def test_branches_and_pull_requests(hub, model):
    model.push_to_hub("lab/whale", token=TOKEN, private=True)
    assert hub.repositories["lab/whale"].private
    other = random_model(seed=1).float()
    other.push_to_hub("lab/whale", token=TOKEN, revision="wide")
    for seen, revision in ((other, "wide"), (model, None)):
        assert same(WorldModel.from_pretrained("lab/whale", revision=revision, token=TOKEN), seen)
    proposal = other.push_to_hub("lab/whale", token=TOKEN, create_pr=True)
    assert proposal.pr_url.endswith("/discussions/1")
    assert same(WorldModel.from_pretrained("lab/whale", token=TOKEN), model)
    assert same(WorldModel.from_pretrained("lab/whale", revision="refs/pr/1", token=TOKEN), other)


def test_saving_can_push_and_names_the_users_own_space(hub, model, tmp_path):
    model.save_pretrained(tmp_path / "export", push_to_hub=True, repo_id="mine", token=TOKEN)
    assert same(WorldModel.from_pretrained("me/mine"), WorldModel.from_pretrained(tmp_path / "export"))
    with pytest.raises(UserError, match="repo_id"):
        model.save_pretrained(tmp_path / "other", push_to_hub=True)
    assert not (tmp_path / "other").exists()


class Planted:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_nothing_else_of_a_repository_is_fetched_or_run(hub, files, model, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Planted())
    planted = dict.fromkeys(("pytorch_model.bin", "model.pkl", "sub/config.json", "modeling.py", "a.safetensors"), bomb)
    hub.add("evil/extra", {**planted, **files})
    assert same(WorldModel.from_pretrained("evil/extra"), model)
    assert set(hub.fetched) <= set(FILES)
    hub.add("evil/only", {**planted, "config.json": files["config.json"]})
    with pytest.raises(UserError, match=r"evil/only holds no exported model"):
        WorldModel.from_pretrained("evil/only")
    hub.add("evil/weights", {**files, "model.safetensors": bomb})
    with pytest.raises(UserError, match="damaged"):
        WorldModel.from_pretrained("evil/weights")
    changed = json.loads(files["config.json"])
    changed["model"]["tokenizer"] = str(tmp_path / "secret")
    hub.add("evil/path", {**files, "config.json": json.dumps(changed).encode()})
    with pytest.raises(UserError, match="tokenizer"):
        WorldModel.from_pretrained("evil/path")
    assert not (tmp_path / "executed").exists()
    pickle.loads(bomb)
    assert (tmp_path / "executed").exists()  # it would have shown


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("lab/typo", {}, "no folder 'lab/typo', and the hub has no repository 'lab/typo' that you may read"),
        ("lab/private", {}, "the hub has no repository 'lab/private' that you may read"),
        ("lab/gated", {}, "lab/gated is gated"),
        ("lab/whale", {"revision": "v9"}, "lab/whale has no such revision"),
        ("lab/version", {}, "export version 99"),
        ("lab/bert", {}, "not the config.json of an exported model of whale"),
        ("runs/dynamics/export", {}, "no folder that exists, and no hub id"),
        ("absent", {}, "no folder that exists, and no hub id"),
        ("/absent/folder", {}, "no folder that exists, and no hub id"),
        ("lab/what?", {}, "no folder that exists, and no hub id"),
    ],
)
def test_what_cannot_be_had_is_told(hub, files, source, options, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    hub.add("lab/whale", files)
    hub.add("lab/private", files, private=True)
    hub.add("lab/gated", files, gated=True)
    hub.add("lab/bert", {**files, "config.json": b'{"model_type": "bert"}'})
    hub.add("lab/version", {**files, "config.json": b'{"export_version": 99}'})
    with pytest.raises(UserError) as refused:
        WorldModel.from_pretrained(source, token="hf_wrongOne", **options)
    assert said in str(refused.value) and "hf_wrongOne" not in str(refused.value)


def test_a_hub_that_refuses_or_is_away_is_told(hub, model, files, monkeypatch):
    hub.add("lab/whale", files)
    for token in (False, "hf_wrongOne"):
        with pytest.raises(UserError) as refused:
            model.push_to_hub("lab/new", token=token)
        assert "refuses access" in str(refused.value) and "hf_wrongOne" not in str(refused.value)
    for ask in (lambda: model.push_to_hub("lab/new", token=True), lambda: find_export("lab/whale", token=True)):
        with pytest.raises(UserError, match="nobody is logged in"):
            ask()
    with pytest.raises(UserError, match="no valid name"):
        model.push_to_hub("lab/new/thing", token=TOKEN)
    assert set(hub.repositories) == {"lab/whale"}
    hub.close()
    with pytest.raises(UserError, match=r"cannot be fetched \(ConnectError\)"):
        WorldModel.from_pretrained("lab/whale")
    with pytest.raises(UserError, match=r"cannot be reached for lab/whale \(ConnectError\)"):
        model.push_to_hub("lab/whale", token=TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    with pytest.raises(UserError, match=r"cannot be reached for lab/whale \(OfflineModeIsEnabled\)"):
        model.push_to_hub("lab/whale", token=TOKEN)


def test_adaptation_starts_from_a_hub_id(hub, monkeypatch, tmp_path):
    runs = prepare(tmp_path / "tiny")
    hub.add("lab/source", {name: (tmp_path / "tiny/source" / name).read_bytes() for name in FILES})
    monkeypatch.chdir(tmp_path)
    words = runs.words("world_model", tmp_path / "run", source="lab/source", tokenizer=None, loop__steps=1)
    assert main([str(word) for word in words]) == 0
    source, adapted = WorldModel.from_pretrained("lab/source"), WorldModel.from_pretrained(tmp_path / "run/export")
    assert adapted.record["adapted_from"] == source.checkpoint_hash and same(adapted.tokenizer, source.tokenizer)
    assert adapted.record["config"]["source"] == "lab/source" and not same(adapted.dynamics, source.dynamics)


def test_a_folder_with_other_files_is_not_replaced(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt"):
        model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        model.save_pretrained(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    shutil.rmtree(tmp_path)
    for _ in range(2):
        model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tiny_clips import pixel_folder
from tiny_model import CARD, random_model, tiny_config

from whale.clips.loader import DataConfig, DataSource
from whale.data_record import data_record
from whale.export import save_export
from whale.model_card import licence_id, model_card
from whale.models.tokenizer import VideoTokenizer
from whale.models.world_model import WorldModel


def card_of(model, config=None, record=None, kind="world_model") -> str:
    return model_card(kind, model, config or model.config, record or {})


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def table(card: str, head: str) -> list[list[str]]:
    """The rows of the table whose first cells are `head`."""
    lines = card.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head}"))
    body = "\n".join(lines[start:]).split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in body]


def two_datasets(**changes):
    cards = {name: replace(CARD, **{key: value[i] for key, value in changes.items()}) for i, name in enumerate("ab")}
    return replace(tiny_config(), datasets=cards)


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        ("MIT (by LeRobot's copy: some/file.py)", "mit"),
        ("CC BY 4.0", "cc-by-4.0"),
        ("Apache-2.0", "apache-2.0"),
        ("MIT (the excerpt); CC BY 4.0 (the rest)", None),
        ("", None),
        ("for research only", None),
    ],
)
def test_licences_are_called_what_the_hub_calls_them(licence, said):
    assert licence_id(licence) == said


@pytest.mark.parametrize(
    ("licences", "said"), [(("MIT (x)", "mit"), "mit"), (("MIT", "CC BY 4.0"), "other"), (("MIT", ""), "other")]
)
def test_the_front_matter_states_a_licence_only_where_all_datasets_have_it(licences, said):
    model = random_model()
    config = two_datasets(licence=licences)
    card = card_of(model, config)
    assert front(card)["license"] == said and ("license_name" in front(card)) == (said == "other")
    assert front(card)["library_name"] == "whale" and "datasets" not in front(card)  # those would be ids of the hub
    assert [row[-1] for row in table(card, "dataset | clips")] == [one or "unknown" for one in licences]


def test_parameters_add_up_and_the_codebook_is_among_them():
    model = random_model()
    rows = {name: int(count.replace(",", "").strip("*")) for name, count in table(card_of(model), "part | parameters")}
    every = sum(p.numel() for p in model.parameters()) + model.tokenizer.quantizer.codebook_VC.numel()
    assert rows.pop("**all**") == every == sum(rows.values())
    assert set(rows) == {"tokenizer", "behavior", "dynamics"}


def test_what_is_not_known_is_said_or_left_out():
    model = random_model()
    card = card_of(model)
    assert table(card, "dataset | clips")[0][:3] == ["tabletop", "unknown", "unknown"]
    assert "updates" not in card and "Figures" not in card and model.tokenizer.fingerprint in card
    assert "names no dataset" in card_of(model.tokenizer, kind="tokenizer")
    assert "learned no rewards" not in card
    assert "learned no rewards from a:" in card_of(model, two_datasets(reward_mean=(0, 0.5), reward_std=(1, 1)))


def test_data_and_training_are_those_of_the_run(tmp_path):
    clips = pixel_folder(tmp_path / "clips", train=5, val=2, steps=6)
    record = {"step": 7, "figures": {"psnr": 21.53219, "usage": None}, "tokenizer": {"figures": {"psnr": 30.0}}}
    data = DataConfig(sources=(DataSource(folder=clips),), frames=3, batch=4)
    model = random_model()
    card = card_of(model, record={**record, **data_record(data)})
    assert table(card, "dataset | clips")[0][:4] == ["tabletop", "5", "30", "0.2 s"]
    facts = dict(table(card, " |"))
    assert (facts["updates"], facts["frames seen, at most"], facts["tokens seen, at most"]) == ("7", "84", "1,344")
    assert [row[:2] for row in table(card, "figure | value")] == [["psnr", "21.532"], ["usage", "not finite"]]
    few = replace(data, sources=(replace(data.sources[0], clips=2),))
    assert table(card_of(model, record=data_record(few)), "dataset | clips")[0][1:3] == ["2", "unknown"]
    sole = model_card("tokenizer", model.tokenizer, model.tokenizer.config, data_record(data))  # its data has no card
    assert table(sole, "dataset | clips")[0][0] == "tabletop"


def test_figures_of_datasets_and_robots_are_tables_where_there_are_several():
    groups = {"dataset/a/b/psnr": 1.0, "dataset/a/b/usage": 2.0, "dataset/c/psnr": 3.0, "robot/x/psnr": 4.0}
    card = card_of(random_model(), record={"figures": {"psnr": 5.0, **groups}})
    assert table(card, "dataset | psnr") == [["a/b", "1", "2"], ["c", "3", ""]]
    assert [row[:2] for row in table(card, "figure | value")] == [["psnr", "5"]] and "| robot | psnr" not in card


def test_action_statistics_are_those_that_scale():
    rows = table(card_of(random_model()), "dataset | dimension")
    assert [row[1] for row in rows] == ["dx", "dy", "dz", "rx", "ry", "rz", "gripper"]
    assert [row[3] for row in rows] == ["actuated"] * 3 + ["fixed"] * 3 + ["actuated"]
    assert [(float(row[4]), float(row[5])) for row in rows] == list(zip(CARD.action_low, CARD.action_high, strict=True))
    joint = table(card_of(random_model(), two_datasets(action_type=("joint", "eef_delta"))), "dataset | dimension")
    assert joint[0][1:3] == ["slot 0", "its own"] and joint[7][1:3] == ["dx", "m"]


@pytest.mark.parametrize(("kind", "model_class"), [("world_model", WorldModel), ("tokenizer", VideoTokenizer)])
def test_the_code_of_a_card_runs(tmp_path, kind, model_class):
    import numpy as np

    whole = random_model().float()
    model = whole if kind == "world_model" else whole.tokenizer
    save_export(tmp_path / "export", kind, model, model.config, {})
    code = re.search(r"```python\n(.*?)```", (tmp_path / "export/README.md").read_text(), re.DOTALL)[1]
    names = {
        "frames": np.zeros((2, 3, 16, 16, 3), np.uint8), "actions": np.zeros((2, 2, 7), np.float32),
        "next_actions": np.zeros((2, 7), np.float32), "dataset": "tabletop", "control_period_sec": 0.2,
    }  # fmt: skip
    if kind == "tokenizer":
        import torch

        names["frames"] = torch.zeros(5, 16, 16, 3, dtype=torch.uint8)
    exec(code.replace("folder, or organisation/name", str(tmp_path / "export")), names)
    assert isinstance(names["model"], model_class)
    shown = names["pixels"] if kind == "world_model" else names["decoded"]
    assert shown.shape == ((2, 16, 16, 3) if kind == "world_model" else (1, 5, 16, 16, 3))


def test_an_export_holds_all_in_one_folder(tmp_path):
    model = random_model().float()
    record = {"step": 3, "config": {"loop": {"steps": 3}}, "data": {"folder": "hash"}}
    save_export(tmp_path / "export", "world_model", model, model.config, record)
    values = json.loads((tmp_path / "export/config.json").read_text())
    assert values["training"] == record
    assert values["model"]["datasets"]["tabletop"]["action_low"] == list(CARD.action_low)
    assert {file.name for file in Path(tmp_path / "export").iterdir()} == {
        "config.json", "model.safetensors", "README.md"
    }  # fmt: skip

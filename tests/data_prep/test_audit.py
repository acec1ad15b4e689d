"""The command: its page, its JSON, its exit code; and the documented traps of real data."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from planted_scene import World, in_memory, make, write

from whale.config import build_config
from whale.data_prep.audit import AuditConfig, audit, examine
from whale.data_prep.audit_finding import REMEDIES
from whale.data_prep.oxe.registry import spec_of
from whale.errors import UserError

ROOT = Path(__file__).parents[2]
FRANKA = ROOT / "../shared/data/franka_usb_lerobot"
VOID = {"meta", "img", "br", "line", "rect", "polyline", "circle"}


class Page(HTMLParser):
    """Fails on tags that are not closed; collects what a browser would fetch, and the text."""

    def __init__(self, content: str):
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "link", "iframe")
        self.fetched += [value for key, value in attributes if key in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def run(tmp_path):
    """Audit with a configuration; its exit code, JSON and page."""
    def call(**settings):
        config = build_config(AuditConfig, {"out": tmp_path / "out", **settings}, "test")
        code = audit(config)
        path = next((tmp_path / "out").glob("*.json"))
        return code, json.loads(path.read_text()), path.with_suffix(".html").read_text()

    return call


def kinds(report: dict, *severities: str) -> set[tuple[str, str]]:
    return {(one["kind"], one["where"].partition(":")[0]) for one in report["findings"]
            if one["severity"] in severities}


def test_a_clean_dataset_gets_a_page_and_exit_code_0(run, tmp_path, capsys):
    data = make(World())
    code, report, content = run(source=str(write(data, tmp_path)), spec=data.spec)
    assert (code, report["counts"]["hard"], report["counts"]["warning"]) == (0, 0, 0)
    assert report["episodes"] == {"looked_at": 10, "in_all": 10}
    page = Page(content)
    assert all(one.startswith("data:image/jpeg;base64,") for one in page.fetched)
    assert len(page.fetched) >= 3 * 2 * 3  # three episodes at least, two cameras, three frames
    for word in ("planted", "front", "side", "10 Hz", "Apache-2.0", "simulated arm", "train[0]", "rz"):
        assert word in page.text
    assert "planted.html" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["planted.html", "planted.json"]


def test_a_hard_fault_gives_exit_code_1_and_stands_first(run, tmp_path):
    data = make(World())
    spec = dataclasses.replace(data.spec, versions=("2.0.0",), control_period_sec=0.2, name="<b>planted")
    code, report, content = run(source=str(write(data, tmp_path)), spec=spec)
    assert code == 1
    assert [one["kind"] for one in report["findings"][:2]] == ["wrong_version", "wrong_rate"]
    assert report["findings"][1]["number"] == pytest.approx(10, rel=0.01)
    assert all(one["remedy"] == REMEDIES[one["kind"]] for one in report["findings"])
    assert "<b>planted" not in content  # names are text, not markup
    assert Page(content).text.count("wrong_version") == 1


def test_what_collect_writes_has_no_fault(whale, rlds, tmp_path):
    ran = whale("audit", source=rlds, out=tmp_path)
    assert (ran.code, ran.err.count("Traceback")) == (0, 0), ran.out
    counts = json.loads((tmp_path / "tabletop.json").read_text())["counts"]
    assert (counts["hard"], counts["warning"]) == (0, 0), ran.out


def test_few_episodes_come_from_all_over_and_all_are_told(run, tmp_path):
    data = make(World())
    source = str(write(data, tmp_path))
    assert run(source=source, spec=data.spec, episodes=4)[1]["episodes"] == {"looked_at": 4, "in_all": 10}
    facts, _ = examine(in_memory(data), data.spec, "memory", 4)
    assert [one.name for one in facts] == ["train[0]", "train[1]", "train[2]", "val[0]"]
    assert len(examine(in_memory(data), data.spec, "memory", None)[0]) == 10


def test_without_an_entry_or_a_spec_it_says_so(run, tmp_path):
    with pytest.raises(UserError, match="planted"):
        run(source=str(write(make(World()), tmp_path)))


def test_what_is_kept_of_many_episodes_does_not_grow_with_their_steps():
    data = make(World(episodes=2))
    facts, _ = examine(in_memory(data), data.spec, "memory", None)
    lean = facts[0].lean()
    assert lean.readings == {}
    assert len(lean.actions) == len(lean.recorded) == len(lean.cameras["front"].change) == 0
    assert (lean.row, lean.labels, lean.cameras["front"].warmth) == (
        facts[0].row, facts[0].labels, facts[0].cameras["front"].warmth)


def test_the_traps_of_bridge_are_found(run, bridge):
    code, report, content = run(source=str(bridge), episodes=None)
    assert code == 1
    found = {one["kind"] + " " + one["where"].partition(":")[0]: one for one in report["findings"]}
    assert found["black_camera image_3"]["number"] == 50
    assert next(one for key, one in found.items() if key.startswith("duplicates"))["number"] == 25
    assert found["missing_labels is_last"]["number"] == 50
    assert {"missing_labels reward", "missing_labels is_terminal"} <= set(found)
    assert next(one for key, one in found.items() if key.startswith("gripper_between"))["number"] == 18  # 9 in a split
    # Nothing else: pictures, axes, scales, rates and rotation are as the registry says.
    assert kinds(report, "hard", "warning") == {
        ("black_camera", "image_3"), ("missing_labels", "is_last"),
        ("duplicates", next(one["where"] for one in report["findings"] if one["kind"] == "duplicates"))}
    assert "WidowX" in Page(content).text
    assert spec_of("bridge_dataset").licence in Page(content).text


def test_the_traps_of_the_franka_folder_are_found(run):
    if not FRANKA.is_dir():
        pytest.skip("the Franka folder (../shared/data/franka_usb_lerobot) is not here")
    shipped = yaml.safe_load((ROOT / "configs/data_prep/franka_usb_audit.yaml").read_text())
    code, report, content = run(source=str(FRANKA.resolve()), spec=shipped["spec"], episodes=3)
    assert code == 0
    assert kinds(report, "warning") == {("row_frame_mismatch", "video files"), ("wrong_rate", "stated_fps")}
    assert {("wrong_codec", "videos"), ("missing_labels", "success"), ("missing_labels", "reward"),
            ("action_is_next_state", "action")} <= kinds(report, "info")
    by_kind = {one["kind"]: one for one in report["findings"]}
    assert (by_kind["row_frame_mismatch"]["number"], by_kind["wrong_rate"]["number"]) == (1, 10)
    assert re.search("av1.*h264", by_kind["wrong_codec"]["what"])
    assert "panda" in Page(content).text


def test_the_shipped_spec_is_the_one_that_convert_uses():
    audited, converted = (yaml.safe_load((ROOT / f"configs/data_prep/franka_usb_{task}.yaml").read_text())["spec"]
                          for task in ("audit", "convert"))
    assert audited == converted

import json

import pytest

from whale.config import build_config
from whale.errors import UserError
from whale.eval.config import FidelityConfig
from whale.eval.results import Figure, bound, hold_to, read_figures, read_media, read_result, rounded, table, write_part


def figure(value, need=None, name="psnr"):
    return Figure(name, value, value - 1, value + 1, "dB", 5, need)


def test_a_need_is_met_at_its_bound():
    assert figure(2.5, {"at_least": 2.5}).holds is True
    assert figure(2.49, {"at_least": 2.5}).holds is False
    assert figure(4.0, {"at_most": 4.0}).holds is True
    assert figure(4.01, {"at_most": 4.0}).holds is False
    assert figure(1.0).holds is None


def test_a_record_has_the_agreed_keys_and_reads_back():
    record = figure(3.0, {"at_least": 2.5}).record()
    assert list(record) == ["name", "value", "low", "high", "unit", "n", "need", "holds"]
    assert read_figures([json.loads(json.dumps(record))]) == [figure(3.0, {"at_least": 2.5})]


def test_a_need_of_an_unknown_figure_is_refused():
    assert hold_to([figure(1.0)], {"psnr": {"at_least": 2.0}})[0].holds is False
    with pytest.raises(UserError, match=r"needs\.psnrr is no figure"):
        hold_to([figure(1.0)], {"psnrr": {"at_least": 2.0}})


def test_a_bound_of_another_kind_is_refused():
    values = {"out": "o", "model": "m", "clips": "c", "needs": {"psnr_h8": {"at_leest": 2}}}
    with pytest.raises(UserError, match="at_leest"):
        build_config(FidelityConfig, values, "test")


def test_the_table_begins_with_what_is_held_to_a_need():
    lines = table([figure(1.0, name="free"), figure(1.0, {"at_least": 2}, "bad"), figure(9.0, {"at_most": 9}, "good")])
    assert [line.split()[0] for line in lines] == ["figure", "bad", "good", "free"]
    assert lines[1].endswith("at least 2  FAIL")
    assert lines[2].endswith("PASS")
    assert bound({"at_least": 1, "at_most": 2}) == "at least 1 and at most 2"


def test_a_part_reads_back_and_other_versions_are_refused(tmp_path):
    config = FidelityConfig(out=tmp_path, model="m", clips="c", name="part")
    path = write_part("fidelity", config, [figure(1.0)], {"extra": 3})
    part = read_result(path, "fidelity")
    assert path == tmp_path / "part.json"
    assert part["extra"] == 3
    assert part["config"]["model"] == "m"
    assert "versions" in part["environment"]
    with pytest.raises(UserError, match="is a result of the task 'fidelity'"):
        read_result(path, "value")
    path.write_text(json.dumps(part | {"schema": 99}))
    with pytest.raises(UserError, match="schema version 99"):
        read_result(path)
    for content in ("{", "[]", "{}", "3"):
        path.write_text(content)
        with pytest.raises(UserError, match="is not a result file"):
            read_result(path)
    with pytest.raises(UserError, match="there is no result file"):
        read_result(tmp_path / "absent.json")


def test_media_are_checked_against_their_hash(tmp_path):
    entry = {"path": "a.png", "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}
    with pytest.raises(UserError, match="not there"):
        read_media(tmp_path, entry)
    (tmp_path / "a.png").write_text("foo")
    assert read_media(tmp_path, entry) == b"foo"
    (tmp_path / "a.png").write_text("bar")
    with pytest.raises(UserError, match="hash differs"):
        read_media(tmp_path, entry)


def test_left_out_values_become_null():
    assert rounded([1.0000049, float("nan"), [2.5]]) == [1.0, None, [2.5]]

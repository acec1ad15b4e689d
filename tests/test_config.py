import dataclasses
import math
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whale.config import build_config, configclass, dump_config, load_config, to_values
from whale.config_docs import field_docs
from whale.errors import UserError


@configclass
class Source:
    """One dataset of a mixture."""

    name: str
    """Its folder."""
    weight: float = 1.0
    """Its share,
    relative to the others."""


@configclass
class Optimizer:
    """How to step."""

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    schedule: Literal["constant", "cosine", "off"] = "cosine"

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError("learning_rate must be positive")


@configclass
class Training:
    """Everything."""

    optimizer: Optimizer = Optimizer()
    """Nested."""
    sources: tuple[Source, ...] = ()
    """Nested in a tuple."""
    teacher: Source | None = None
    """Nested and optional."""
    folder: Path = Path("runs")
    steps: int = 10
    compiled: bool = False
    note: str = ""
    start: Source | Path | None = None
    limits: dict[str, Source] = dataclasses.field(default_factory=dict)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problem_of(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(Training, [], overrides)
    return str(caught.value)


# Reading and merging


def test_defaults_stand_where_nothing_is_given(tmp_path):
    assert load_config(Training, []) == Training()
    assert load_config(Training, [write(tmp_path, "empty.yaml", "# nothing\n")]) == Training()


def test_later_files_win_key_by_key_and_overrides_win_over_files(tmp_path):
    first = write(tmp_path, "a.yaml", "steps: 1\nnote: a\noptimizer: {learning_rate: 0.5, schedule: constant}\n")
    second = write(tmp_path, "b.yaml", "steps: 2\noptimizer: {learning_rate: 0.25}\n")
    expected = Training(steps=2, note="a", optimizer=Optimizer(learning_rate=0.25, schedule="constant"))
    assert load_config(Training, [first, second]) == expected
    overridden = load_config(Training, [first, second], ["steps=3", "optimizer.schedule=cosine", "steps=4"])
    assert overridden == dataclasses.replace(expected, steps=4, optimizer=Optimizer(learning_rate=0.25))


def test_a_list_is_replaced_as_a_whole(tmp_path):
    first = write(tmp_path, "a.yaml", "sources: [{name: x}, {name: y}]\n")
    second = write(tmp_path, "b.yaml", "sources:\n- name: z\n  weight: 2\n")
    assert load_config(Training, [first, second]).sources == (Source(name="z", weight=2.0),)


@pytest.mark.parametrize("text", ["3e-4", "3E-4", "3.e-4", "0.0003", "+3e-4", "0.3e-3", ".3e-3"])
def test_floats_without_a_dot_are_floats(text):
    value = load_config(Optimizer, [], [f"learning_rate={text}"]).learning_rate
    assert isinstance(value, float) and value == pytest.approx(3e-4)


def test_scalars_are_those_of_yaml_1_2():
    loaded = load_config(Training, [], ["optimizer.schedule=off", "note=yes", "compiled=true"])
    assert (loaded.optimizer.schedule, loaded.note, loaded.compiled) == ("off", "yes", True)
    for text in ("2026-01-01", "1:30:00", "on", "~/x", "010 a"):
        assert load_config(Training, [], [f"note={text}"]).note == text
    assert load_config(Training, [], ["note='3e-4'"]).note == "3e-4"
    assert load_config(Training, [], ["steps=1_000", "teacher=null"]) == Training(steps=1000)


def test_an_override_may_hold_equals_signs_and_structures():
    loaded = load_config(Training, [], ["note=a=b", "teacher={name: x, weight: 3}", "optimizer.betas=[0.5, 0.75]"])
    assert loaded == Training(
        note="a=b", teacher=Source(name="x", weight=3.0), optimizer=Optimizer(betas=(0.5, 0.75))
    )  # fmt: skip


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Training().steps = 3


# Errors


def test_an_unknown_key_is_named_with_its_path_and_its_neighbour():
    assert "optimizer.learnin_rate: unknown key; did you mean 'learning_rate'?" in problem_of("optimizer.learnin_rate=")
    assert "stesp: unknown key; did you mean 'steps'?" in problem_of("stesp=1")
    assert "teacher.wieght: unknown key; did you mean 'weight'?" in problem_of("teacher={name: x, wieght: 1}")
    assert "sources.1.nam: unknown key; did you mean 'name'?" in problem_of("sources=[{name: x}, {name: y, nam: z}]")


def test_a_key_like_no_other_gets_no_suggestion():
    assert "zzz: unknown key\n" in problem_of("zzz=1")


def test_a_value_of_the_wrong_type_is_shown_with_its_path():
    problem = problem_of("optimizer.betas=[0.9, high]", "steps=1.5", "optimizer.schedule=sine")
    for part in ("optimizer.betas.1:", "'high'", "steps:", "1.5", "optimizer.schedule:", "'sine'"):
        assert part in problem


def test_all_errors_come_at_once(tmp_path):
    text = "stepps: 1\ncompiled: maybe\noptimizer: {lr: 1}\nsources: [{weight: 2}]\n"
    with pytest.raises(UserError) as caught:
        load_config(Training, [write(tmp_path, "bad.yaml", text)])
    expected = ("stepps: unknown key", "compiled: ", "optimizer.lr: unknown key", "sources.0.name: required")
    for part in ("bad.yaml", "4 error(s)", *expected):
        assert part in str(caught.value)


def test_the_path_of_an_error_in_a_union_or_a_dict_is_that_of_the_file():
    assert "\n  - start.wieght: unknown key; did you mean 'weight'?\n" in problem_of("start={name: x, wieght: 2}")
    assert "1 error(s)" in problem_of("start={name: x, wieght: 2}")
    assert "start: " in problem_of("start=5") and "Source." not in problem_of("start=5")
    assert "limits.low.nam: unknown key; did you mean 'name'?" in problem_of("limits={low: {name: x, nam: y}}")


def test_a_union_takes_each_of_its_members():
    for text, value in (("{name: x}", Source(name="x")), ("a/b", Path("a/b")), ("null", None)):
        assert load_config(Training, [], [f"start={text}"]).start == value


def test_a_rule_of_a_dataclass_is_reported_under_its_path():
    assert "optimizer: learning_rate must be positive" in problem_of("optimizer.learning_rate=-1")


def test_a_repeated_key_is_an_error_that_names_its_line(tmp_path):
    path = write(tmp_path, "twice.yaml", "steps: 1\nnote: x\noptimizer:\n  schedule: constant\n  schedule: cosine\n")
    with pytest.raises(UserError, match=r"(?s)twice\.yaml.*'schedule' is given twice.*line 5"):
        load_config(Training, [path])


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "3\n"])
def test_a_file_that_is_no_mapping_is_an_error(tmp_path, text):
    with pytest.raises(UserError, match=r"list\.yaml holds a .* not a mapping"):
        load_config(Training, [write(tmp_path, "list.yaml", text)])


@pytest.mark.parametrize("text", ["steps: [1\n", "a: b: c\n", "note: !!python/name:os.getcwd\n", "\tsteps: 1\n"])
def test_bad_or_unsafe_yaml_is_an_error(tmp_path, text):
    with pytest.raises(UserError, match=r"bad\.yaml is not valid YAML"):
        load_config(Training, [write(tmp_path, "bad.yaml", text)])


def test_a_missing_file_is_an_error():
    with pytest.raises(UserError, match=r"no configuration file nowhere\.yaml"):
        load_config(Training, [Path("nowhere.yaml")])


@pytest.mark.parametrize("override", ["steps", "=3", ""])
def test_an_override_without_a_key_or_value_is_an_error(override):
    assert "not of the form key.path=value" in problem_of(override)


# Round trip

floats = st.floats(allow_nan=False)
sources = st.builds(Source, name=st.text(), weight=floats)
optimizers = st.builds(
    Optimizer,
    learning_rate=floats.filter(lambda value: value > 0),
    betas=st.tuples(floats, floats),
    schedule=st.sampled_from(["constant", "cosine", "off"]),
)
tricky_strings = ["3e-4", "off", "true", "null", "~", "1:30", "2026-01-01", "0x1f", "a: b", "# c", " x "]
trainings = st.builds(
    Training,
    optimizer=optimizers,
    sources=st.lists(sources, max_size=3).map(tuple),
    teacher=st.none() | sources,
    folder=st.sampled_from([Path("runs"), Path("/a/b c"), Path("1e5")]),
    steps=st.integers(),
    compiled=st.booleans(),
    note=st.text() | st.sampled_from(tricky_strings),
    start=st.none() | sources | st.sampled_from([Path("null"), Path("3")]),
    limits=st.dictionaries(st.text() | st.sampled_from(tricky_strings), sources, max_size=2),
)


@given(trainings)
def test_dump_and_load_give_the_same_configuration(tmp_path_factory, training):
    path = write(tmp_path_factory.getbasetemp(), "round.yaml", dump_config(training))
    assert load_config(Training, [path]) == training
    assert build_config(Training, to_values(training), "values") == training


def test_infinities_survive_the_round_trip(tmp_path):
    loaded = load_config(Source, [write(tmp_path, "inf.yaml", dump_config(Source(name="x", weight=-math.inf)))])
    assert loaded.weight == -math.inf


# Documentation of the keys


def test_every_key_is_listed_with_its_docstring_on_one_line():
    docs = field_docs(Training)
    assert docs["optimizer"] == "Nested."
    assert docs["sources.weight"] == docs["teacher.weight"] == "Its share, relative to the others."
    assert docs["optimizer.betas"] == ""
    assert list(docs)[:2] == ["optimizer", "optimizer.learning_rate"]

"""Planners in the closed loop, with the tabletop itself as the world model: then what they expect is what happens."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_model import CARD

from whale.errors import UserError
from whale.eval import planning, run, value
from whale.eval.config import PlanningConfig
from whale.planner import PlannerConfig
from whale.rollout import ImaginedStep
from whale.sim.policies import SKILLS
from whale.sim.tabletop import Tabletop
from whale.uncertainty import Retracing

PLANNER = PlannerConfig(horizon=8, candidates=32, iterations=2, elites=5)
CONFIG = PlanningConfig(out=Path("out"), model=Path("model"), planner=PLANNER, num_starts=4, horizon=20)


class Perfect:
    """Stands where Imagination stands: knows the true states of the starts, and refuses frames that did not happen."""

    def __init__(self, model, frames, actions, dataset, control_period_sec, retracing=None):
        states = [model.states[frame.tobytes()] for frame in frames[:, -1]]
        self.world = Tabletop(len(states), control_period_sec=control_period_sec)
        self.world.set_state({name: np.concatenate([state[name] for state in states]) for name in states[0]})
        self.model, self.retracing, self.returns_B = model, retracing, np.zeros(len(states))
        self.logits_BSV = torch.zeros(1)
        model.built.append(self)

    def predict(self, actions):
        self.step(actions)

    def accept(self, tokens_BS):
        np.testing.assert_array_equal(tokens_BS.numpy(), self.model.encode(self.world.render()))

    def fork(self, copies):
        other = object.__new__(Perfect)
        other.world, other.returns_B = Tabletop(self.world.num_scenes * copies), self.returns_B.repeat(copies)
        other.world.set_state({name: value.repeat(copies, 0) for name, value in self.world.state().items()})
        return other

    def step(self, actions):
        reward, terminated = self.world.step(actions)
        self.returns_B = self.returns_B + reward
        return ImaginedStep(np.zeros((len(actions), 4)), reward, terminated.astype(np.float32))


@pytest.fixture
def perfect(fakes, monkeypatch):
    model = fakes.Simulator()
    model.config = SimpleNamespace(tokenizer=model.config.tokenizer, datasets={"tabletop": CARD})
    model.built = []
    fakes.know_starts(model, CONFIG.num_starts, CONFIG.context_frames)
    monkeypatch.setattr("whale.rollout.Imagination", Perfect)
    return model


def test_a_planner_with_a_perfect_model_beats_all_behaviour(perfect):
    played = planning.play(perfect, CONFIG, PLANNER, False, "test")
    truth = value.run_truth(CONFIG)
    by_name = {figure.name: figure for figure in planning.figures(truth, {"": played, "_again": played}, seed=0)}
    assert by_name["planner_gain_over_behaviour"].low > 2
    assert by_name["planner_success"].value == 1.0
    assert by_name["planner_return"].value == pytest.approx(played.returns.mean())
    gain = by_name["planner_return"].value - by_name["behaviour_return"].value
    assert by_name["planner_gain_over_behaviour_again"].value == pytest.approx(gain)
    assert by_name["behaviour_return"].value == pytest.approx(truth.returns.mean())
    assert by_name["expert_return"].value == pytest.approx(truth.returns[list(SKILLS).index("expert")].mean())
    assert {figure.n for figure in by_name.values()} == {CONFIG.num_starts}


def test_what_a_perfect_model_expects_is_what_the_whole_plan_earns(perfect):
    config = PlanningConfig(
        out=Path("out"), model=Path("model"), planner=PLANNER, num_starts=4, horizon=16, replan_every=8
    )
    played = planning.play(perfect, config, PLANNER, False, "test")
    assert played.costs.shape == (4, 2)
    np.testing.assert_allclose(-played.costs.sum(1), played.returns, rtol=1e-5)


def test_retracing_is_asked_for_where_it_costs_something(perfect):
    short = PlanningConfig(out=Path("out"), model=Path("model"), num_starts=4, horizon=2)
    planning.play(perfect, short, PLANNER, False, "test")
    with pytest.raises(Exception, match="has estimated no uncertainty"):  # the stand-in cannot
        planning.play(perfect, short, PlannerConfig(candidates=8, uncertainty_weight=1.0), False, "test")
    assert [one.retracing for one in perfect.built] == [None, Retracing()]


def test_goal_images_show_the_disc_on_the_goal_and_change_nothing():
    world = value.start(CONFIG).world
    before = world.state()
    images = planning.goal_images(world)
    for name, values in world.state().items():
        np.testing.assert_array_equal(values, before[name])
    done = Tabletop(4)
    done.set_state(before | {"discs": np.stack([before["goal"], before["discs"][:, 1]], 1), "closed": np.ones(4, bool)})
    done.gripper = np.column_stack([before["goal"], np.full(4, 0.02)])
    np.testing.assert_array_equal(images, done.render())
    assert done.success().all()


def test_the_task_writes_every_planner_and_policy(perfect, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run, "_load", lambda folder: perfect)
    narrow = PlannerConfig(horizon=2, candidates=8, iterations=1, elites=2)
    config = PlanningConfig(
        out=tmp_path, model=Path("model"), planner=PLANNER, others={"narrow": narrow}, num_starts=4, horizon=6,
        needs={"planner_gain_over_behaviour": {"at_least": 100}},
    )  # fmt: skip
    run.run_planning(config)
    result = json.loads((tmp_path / "planning.json").read_text())
    assert result["task"] == "planning" and set(result["policies"]) == set(SKILLS)
    assert np.shape(result["planners"]["narrow"]["costs"]) == (4, 3)
    figures = {figure["name"]: figure for figure in result["figures"]}
    assert figures["planner_gain_over_behaviour"]["holds"] is False
    assert np.mean(result["planners"]["narrow"]["returns"]) == pytest.approx(figures["planner_return_narrow"]["value"])
    assert "planner_success_narrow" in capsys.readouterr().out


def test_a_policy_that_there_is_not_is_refused_before_any_planner_has_played(perfect, monkeypatch, tmp_path):
    monkeypatch.setattr(run, "_load", lambda folder: perfect)
    misspelt = PlannerConfig(proposals=("tabletop:expret",), iterations=0)
    with pytest.raises(UserError, match="no policy 'expret'"):
        run.run_planning(replace(CONFIG, out=tmp_path, others={"misspelt": misspelt}))
    assert not perfect.built and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"replan_every": 9}, "within every planner's horizon"),
        ({"replan_every": 0}, "must be at least 1"),
        ({"num_starts": 1}, "num_starts at least 2"),
        ({"others": {"image": PLANNER}}, "others may not be named image"),
        ({"context_frames": 1, "to_image": PlannerConfig(uncertainty_weight=1.0)}, "two context_frames"),
    ],
)
def test_bad_configuration_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        PlanningConfig(**{"out": Path("out"), "model": Path("model"), "planner": PLANNER} | change)

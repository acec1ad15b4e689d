"""Policies by name, policies that fail, and a policy at work in the model."""

import re
import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from test_env import ending
from tiny_clips import pixel_folder
from tiny_model import CARD, random_model

from whale.env import EnvConfig, WorldModelVectorEnv
from whale.episodes import action_range
from whale.errors import UserError
from whale.policy import GuardedPolicy, load_policy, run_policy
from whale.sim.base import Camera
from whale.sim.policies import SKILLS, TabletopPolicy
from whale.uncertainty import Retracing

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


class Answers:
    """A policy that returns, or does, the next of these."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def act(self, images):
        answer = self.answers.pop(0)
        return answer() if callable(answer) else answer


GOOD = np.linspace(0, 1, 21, dtype=np.float32).reshape(3, 7)


def seeded(seeds):
    """A factory, imported by name below."""
    return Answers(np.repeat(np.asarray(seeds, np.float32)[:, None], 7, 1))


def broken(seeds):
    raise RuntimeError("no weights here")


def aimless(seeds):
    return object()


def test_every_tabletop_policy_is_known_by_its_name():
    for skill in SKILLS:
        policy = load_policy(f"tabletop:{skill}", [4, 5, 6], image_px=16)
        own = TabletopPolicy(SKILLS[skill], np.array([4, 5, 6]), Camera(size_px=16))
        assert np.array_equal(policy.act(IMAGES), own.act(IMAGES))


def test_a_factory_is_imported_and_given_the_seeds():
    assert load_policy("test_policy:seeded", [3, 1]).act(IMAGES[:2])[:, 0].tolist() == [3, 1]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tabletop:wizard", "no policy 'wizard'.*\n.*expert"),
        ("expert", "names no policy.*\n.*package.module:factory"),
        ("test_policy:", "names no policy"),
        ("no_such_module:make", "cannot be built: ModuleNotFoundError.*\n.*import no_such_module"),
        ("test_policy:absent", "cannot be built: AttributeError"),
        ("test_policy:broken", "cannot be built: RuntimeError: no weights here"),
        ("test_policy:aimless", r"gave a object without act\(images\)"),
    ],
)
def test_a_policy_that_cannot_be_had_is_a_user_error(spec, message):
    with pytest.raises(UserError, match=message):
        load_policy(spec, [0])


def test_a_guard_passes_on_what_is_well():
    guarded = GuardedPolicy(Answers(GOOD, 2 * GOOD), "mine")
    assert guarded.act(IMAGES) is not None and np.array_equal(guarded.act(IMAGES), 2 * GOOD)
    assert guarded.step == 2


def fail():
    raise ZeroDivisionError("by nothing")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (fail, r"raised ZeroDivisionError: by nothing \(.*test_policy.py, line \d+\)\n.*correct it"),
        (lambda: sys.exit(3), "raised SystemExit: 3"),
        (GOOD[:2], r"returned float32 of shape \(2, 7\).*\n.*\(3, 7\)"),
        (GOOD.astype(np.float64), "returned float64"),
        (GOOD * np.float32(np.nan), "returned nan among its values"),
        (np.full((3, 7), -np.inf, np.float32), "returned -inf among its values"),
        (torch.zeros(3, 7), "returned a Tensor"),
        (GOOD.tolist(), "returned a list"),
        (None, "returned a NoneType"),
        (ValueError("as a value"), "returned a ValueError"),
    ],
)
def test_what_a_policy_does_wrong_names_it_and_the_step(answer, message):
    guarded = GuardedPolicy(Answers(GOOD, answer, GOOD), "mine")
    guarded.act(IMAGES)
    with pytest.raises(UserError, match=f"the policy 'mine', at step 1, {message}"):
        guarded.act(IMAGES)
    assert np.array_equal(guarded.act(IMAGES), GOOD)  # it may do better


def test_the_traceback_of_a_policy_is_kept():
    with pytest.raises(UserError) as caught:
        GuardedPolicy(Answers(fail), "mine").act(IMAGES)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.__cause__.__traceback__.tb_next.tb_frame.f_code.co_name == "act"


def test_a_policy_that_hangs_is_given_up_and_not_called_again():
    calls, go_on = [], threading.Event()

    def hang():
        calls.append(1)
        go_on.wait(60)
        return GOOD

    guarded = GuardedPolicy(Answers(GOOD, hang, hang), "mine", limit_sec=0.2)
    guarded.act(IMAGES)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"'mine', at step 1, gave no action within 0.2 s.*\n.*limit_sec"):
        guarded.act(IMAGES)
    assert time.monotonic() - began < 5
    go_on.set()
    for _ in range(2):
        with pytest.raises(UserError, match="hung at step 1 and is not called again"):
            guarded.act(IMAGES)
    assert calls == [1]


def test_a_policy_that_hangs_in_python_is_stopped():
    """It does not burn a core for ever."""
    stopped = threading.Event()

    def hang():
        try:
            while True:
                pass
        finally:
            stopped.set()

    with pytest.raises(UserError, match="gave no action"):
        GuardedPolicy(Answers(hang), "mine", limit_sec=0.2).act(IMAGES)
    assert stopped.wait(10)


@pytest.mark.parametrize("hang", ["time.sleep(1000)", "while True: x = torch.tanh(x @ x)"])
def test_a_process_exits_in_peace_although_a_policy_hangs(hang):
    """A thread that is still inside Torch when the interpreter goes would abort it."""
    script = (
        "import time, numpy, torch\nfrom whale.policy import GuardedPolicy\nx = torch.randn(300, 300)\n"
        f"class Hanging:\n    def act(self, images):\n        global x\n        {hang}\n"
        "try:\n    GuardedPolicy(Hanging(), 'mine', 0.2).act(numpy.zeros((1, 4, 4, 3), numpy.uint8))\n"
        "except Exception as error:\n    print(type(error).__name__)\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "UserError\n", "")


def test_a_guard_that_is_dropped_ends_its_thread():
    guarded = GuardedPolicy(Answers(GOOD), "dropped policy")
    guarded.act(IMAGES)
    thread = next(one for one in threading.enumerate() if one.name == "dropped policy")
    del guarded
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    clips = pixel_folder(tmp_path_factory.mktemp("clips") / "pixels")
    return EnvConfig(clips=clips, context_frames=3, horizon=6, retracing=Retracing())


class Wanderer:
    """Random actions, other ones for each row."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def act(self, images):
        low, high = action_range(CARD)
        return self.rng.uniform(low, high, (len(images), 7)).astype(np.float32)


def test_a_run_sums_the_first_episode_of_each_row(config):
    env = WorldModelVectorEnv(ending(random_model(), -1, spread=30.0), config, 4)
    run = run_policy(env, Wanderer(0), seed=20)
    policy, rewards = Wanderer(0), []
    images, _ = env.reset(seed=20)
    for _ in range(run.lengths.max()):
        images, reward, *_ = env.step(policy.act(images))
        rewards.append(reward)
    for i, length in enumerate(run.lengths):
        assert run.returns[i] == pytest.approx(sum(reward[i] for reward in rewards[:length]), abs=1e-12)
    assert len(set(run.lengths)) > 1 and run.uncertainty.shape == (4, run.lengths.max())
    assert np.array_equal(np.isfinite(run.uncertainty).sum(1), run.lengths)
    assert run.terminated[run.lengths < 6].all() and (run.lengths <= 6).all()


def test_a_policy_that_fails_in_a_run_is_named(config):
    env = WorldModelVectorEnv(ending(random_model(), -9), config, 3)
    still = np.zeros((3, 7), np.float32)
    with pytest.raises(UserError, match="'mine', at step 2, raised ZeroDivisionError"):
        run_policy(env, GuardedPolicy(Answers(still, still, fail), "mine"))
    with pytest.raises(UserError, match=r"dx = 5.*\n.*np.clip"):
        run_policy(env, GuardedPolicy(Answers(still + 5), "mine"))


def test_the_example_of_the_documentation(config, tmp_path, capsys):
    """Its lines, with a small model in place of the trained one."""
    ending(random_model(), -9).float().save_pretrained(tmp_path / "export")
    text = (Path(__file__).parents[1] / "docs" / "imagination.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(from whale\.env .*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = example.replace("exports/tabletop", str(tmp_path / "export")).replace("clips/tabletop", str(config.clips))
    (tmp_path / "example.py").write_text(lines)
    runpy.run_path(str(tmp_path / "example.py"))
    assert capsys.readouterr().out.startswith("tabletop:expert: 4 episodes of 12 frames, return ")

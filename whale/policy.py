"""Policies: whatever has `act(images uint8 [B, H, W, 3]) -> actions float32 [B, 7]`, canonical and in physical units.

A policy sees one image an episode and nothing else. It is built for B episodes, from one seed each, and serves them in
that order. It is code of the user's: `load_policy` imports it because the user names it, and `GuardedPolicy` keeps what
goes wrong in it from whoever calls it.
"""

import contextlib
import ctypes
import importlib
import queue
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from whale.errors import UserError
from whale.sim.base import Camera
from whale.sim.policies import SKILLS, TabletopPolicy

if TYPE_CHECKING:
    from whale.env import WorldModelVectorEnv


class Policy(Protocol):
    """What acts."""

    def act(self, images: np.ndarray) -> np.ndarray:
        """Actions float32 [B, 7] for images uint8 [B, H, W, 3]."""


def load_policy(spec: str, seeds: Sequence[int], image_px: int = 64) -> Policy:
    """A policy for one episode a seed.

    Args:
        spec: `tabletop:<skill>`, one of `whale.sim.policies.SKILLS`, or `package.module:factory`, which is imported
            and called as `factory(seeds)`; it gives an object with `act`.
        seeds: of the policy's own randomness.
        image_px: height and width of the images that a tabletop policy is to see.

    Raises:
        UserError: there is no such policy, or importing or building it failed.
    """
    module_name, _, name = spec.partition(":")
    if module_name == "tabletop":
        if name not in SKILLS:
            raise UserError(f"the tabletop has no policy {name!r}", f"choose one of {', '.join(SKILLS)}")
        return TabletopPolicy(SKILLS[name], np.asarray(seeds), Camera(size_px=image_px))
    if not (module_name and name):
        raise UserError(f"{spec!r} names no policy", "give `tabletop:<skill>` or `package.module:factory`")
    try:
        factory: Callable[[Sequence[int]], Policy] = getattr(importlib.import_module(module_name), name)
        policy = factory(seeds)
    except Exception as error:
        raise UserError(
            f"the policy {spec} cannot be built: {type(error).__name__}: {error}",
            f"check that `python -c 'import {module_name}'` works here (PYTHONPATH), and that {name}(seeds) gives an "
            "object with act(images)",
        ) from error
    if not callable(getattr(policy, "act", None)):
        raise UserError(f"{spec} gave a {type(policy).__name__} without act(images)", "give it such a method")
    return policy


def _serve(policy: Policy, asked: "queue.SimpleQueue[Any]") -> None:
    """Answer images with actions and what was raised, until None is asked, or `_interrupt` ends it."""
    with contextlib.suppress(SystemExit):
        while (question := asked.get()) is not None:
            images, answer = question
            try:
                answer.put((policy.act(images), None))
            except BaseException as error:
                answer.put((None, error))


def _interrupt(thread: threading.Thread) -> None:
    """Raise SystemExit in a thread, at its next line of Python."""
    if thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))


def _at_exit(reference: "weakref.ref[threading.Thread]", asked: "queue.SimpleQueue[Any]") -> None:
    """End a serving thread that there still is: one inside Torch when the interpreter goes would abort the process."""
    if thread := reference():
        asked.put(None)
        thread.join(0.2)
        _interrupt(thread)
        thread.join(1.0)


class GuardedPolicy:
    """A policy whose faults become errors that name it, the step and the remedy; never the caller's own.

    It acts in one daemon thread of its own, so that any object will do and whatever it holds on a device stays where
    it is. One that hangs is never called again, and is made to raise SystemExit where it is. That reaches Python code,
    not a call that never returns to it: such a thread is left alone, and does not keep the process from exiting. What
    holds the interpreter's lock (a loop inside a C extension) holds the caller too; against that only a process helps.

    Args:
        policy: what acts.
        name: what errors call it.
        limit_sec: how long a call may take; the first may well load weights.
    """

    def __init__(self, policy: Policy, name: str, limit_sec: float = 60.0):
        self.name, self.limit_sec, self.step = name, limit_sec, 0
        self._hung_at: int | None = None
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(policy, self._asked), name=name, daemon=True)
        self._thread.start()
        weakref.finalize(self, self._asked.put, None).atexit = False
        weakref.finalize(self._thread, _at_exit, weakref.ref(self._thread), self._asked)

    def act(self, images: np.ndarray) -> np.ndarray:
        """The policy's actions, float32 [B, 7], finite; `step` counts the calls.

        Raises:
            UserError: the policy raised, took longer than `limit_sec` now or at an earlier step, or returned anything
                else.
        """
        if self._hung_at is not None:
            raise self._error(f"hung at step {self._hung_at} and is not called again", "build it anew")
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()  # of its own: no call finds the answer to another
        self._asked.put((images, answer))
        try:
            actions, raised = answer.get(timeout=self.limit_sec)
        except queue.Empty:
            self._hung_at = self.step
            _interrupt(self._thread)
            raise self._error(
                f"gave no action within {self.limit_sec:g} s, and is given up",
                "make it faster, or allow it more time (limit_sec)",
            ) from None
        if raised is not None:
            at = traceback.extract_tb(raised.__traceback__)[-1]
            problem = f"raised {type(raised).__name__}: {raised} ({at.filename}, line {at.lineno})"
            raise self._error(problem, "correct it, and build it anew") from raised
        self._check(actions, len(images))
        self.step += 1
        return actions

    def _check(self, actions: Any, num: int) -> None:
        remedy = f"return a NumPy array, float32, of shape ({num}, 7), finite, one row an image"
        if not isinstance(actions, np.ndarray):
            raise self._error(f"returned a {type(actions).__name__}", remedy)
        if actions.dtype != np.float32 or actions.shape != (num, 7):
            raise self._error(f"returned {actions.dtype} of shape {actions.shape}", remedy)
        if not np.isfinite(actions).all():
            raise self._error(f"returned {actions[~np.isfinite(actions)][0]} among its values", remedy)

    def _error(self, problem: str, remedy: str) -> UserError:
        return UserError(f"the policy {self.name!r}, at step {self.step}, {problem}", remedy)


class PolicyRun(NamedTuple):
    """One imagined episode for each of N rows; T is the longest one's length."""

    returns: np.ndarray
    """Sum of rewards, float64 [N]."""
    lengths: np.ndarray
    """Imagined frames, int64 [N]."""
    terminated: np.ndarray
    """bool [N]; the others were truncated."""
    uncertainty: np.ndarray
    """`Uncertainty.top` of every frame, float64 [N, T]; NaN after the end, and without retracing."""


def run_policy(env: "WorldModelVectorEnv", policy: Policy, seed: int | Sequence[int] | None = None) -> PolicyRun:
    """Let a policy act in every row until its first episode ends; `seed` is that of `env.reset`."""
    running, ended = np.ones(env.num_envs, bool), np.zeros(env.num_envs, bool)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    uncertainty = []
    images, _ = env.reset(seed=seed)
    while running.any():
        images, reward, terminated, truncated, infos = env.step(policy.act(images))
        returns += np.where(running, reward, 0)
        lengths += running
        uncertainty.append(np.where(running, infos.get("uncertainty", {}).get("top", np.nan), np.nan))
        ended |= running & terminated
        running &= ~(terminated | truncated)
    return PolicyRun(returns, lengths, ended, np.stack(uncertainty, 1))

"""A world model that knows the tabletop: it stands in for a trained one, so that right figures are known in advance.

Its tokenizer is a book of the patches it has seen (with colours rounded, it loses something); its imagination is the
simulator, its actions disturbed by `drift`. With neither it is perfect.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from whale.clips.clip import ActionType, Clip, ClipInfo, Source
from whale.clips.manifest import UnitRecord, write_manifest, write_record
from whale.clips.writer import ShardWriter
from whale.eval.value import FIRST_START_SEED, STANDING_STILL
from whale.rollout import ImaginedStep
from whale.sim.policies import SKILLS, TabletopPolicy
from whale.sim.tabletop import ACTION_STATUS, Tabletop

PATCH_PX = 8


class Simulator:
    """Stands where a WorldModel stands."""

    def __init__(self, levels=1, drift=0.0, name="perfect", image_px=64):
        self.levels, self.drift = levels, drift
        self.checkpoint_hash = f"hash-of-{name}"
        self.config = SimpleNamespace(tokenizer=SimpleNamespace(image_px=image_px), datasets={})
        self.tokenizer = SimpleNamespace(fingerprint="fingerprint-of-patch-book")
        self.states = {}
        self._ids, self._patches = {}, []

    def encode(self, frames):
        frames = frames // self.levels * self.levels + self.levels // 2
        n, h, w, _ = frames.shape
        cells = frames.reshape(n, h // PATCH_PX, PATCH_PX, w // PATCH_PX, PATCH_PX, 3).swapaxes(2, 3)
        cells = cells.reshape(n, -1, PATCH_PX * PATCH_PX * 3)
        tokens = np.empty(cells.shape[:2], np.int64)
        for i, s in np.ndindex(*tokens.shape):
            key = cells[i, s].tobytes()
            if key not in self._ids:
                self._ids[key] = len(self._patches)
                self._patches.append(cells[i, s])
            tokens[i, s] = self._ids[key]
        return tokens

    def decode(self, tokens):
        b, t, s = tokens.shape
        side = int(s**0.5)
        cells = np.stack(self._patches)[tokens].reshape(b, t, side, side, PATCH_PX, PATCH_PX, 3)
        return cells.swapaxes(3, 4).reshape(b, t, side * PATCH_PX, side * PATCH_PX, 3)

    def remember(self, world):
        """Know the states behind the frames that the world shows now."""
        for i, frame in enumerate(world.render()):
            self.states[frame.tobytes()] = {name: value[i : i + 1] for name, value in world.state().items()}


class SimulatedImagination:
    """Stands where Imagination stands."""

    def __init__(self, model, context_frames, context_actions, dataset, control_period_sec):
        assert context_actions.shape == (len(context_frames), context_frames.shape[1] - 1, 7)
        states = [model.states[frame.tobytes()] for frame in context_frames[:, -1]]
        self.model, self.world = model, Tabletop(len(states), control_period_sec=control_period_sec)
        self.world.set_state({name: np.concatenate([state[name] for state in states]) for name in states[0]})
        self.rng = np.random.default_rng(len(states))
        self.returns_B, self.running_B = np.zeros(len(states)), np.ones(len(states))

    def step(self, actions):
        noise = self.model.drift * self.rng.normal(size=(len(actions), 2))
        actions = actions.copy()
        actions[:, :2] += noise.astype(np.float32)
        reward, terminated = self.world.step(actions)
        self.tokens = self.model.encode(self.world.render())
        self.returns_B = self.returns_B + self.running_B * reward
        self.running_B = self.running_B * (1.0 - terminated)
        return ImaginedStep(self.tokens, reward, terminated.astype(np.float32))

    def frame(self):
        return self.model.decode(self.model.encode(self.world.render())[:, None])[:, 0]


def record(num, steps, split, models, first_seed=0, dataset="tabletop"):
    """Episodes of the graded policies as pixel clips; the models come to know every state on the way."""
    clips = []
    for number in range(num):
        world, seeds = Tabletop(1), np.array([first_seed + number])
        world.reset(seeds)
        policy = TabletopPolicy(list(SKILLS.values())[number % len(SKILLS)], seeds)
        frames, actions, rewards = [], [], []
        for _ in range(steps):
            for model in models:
                model.remember(world)
            frames.append(world.render()[0])
            actions.append(policy.act(frames[-1][None])[0])
            rewards.append(world.step(actions[-1][None])[0][0])
        flags = np.arange(steps)
        info = ClipInfo(
            dataset=dataset, episode=f"{split}-{number}", start=0, split=split, camera="image", view="external",
            control_period_sec=0.2, action_type=ActionType.EEF_DELTA, action_status=ACTION_STATUS, instruction=None,
            success=None, source=Source("file", number), tokenizer=None,
        )
        clips.append(Clip(
            info=info, frames=np.stack(frames), tokens=None, actions=np.stack(actions),
            action_known=flags < steps - 1, rewards=np.array(rewards, np.float32), proprio=None,
            is_first=flags == 0, is_last=flags == steps - 1, is_terminal=np.zeros(steps, bool),
        ))
    return clips


def write_clips(folder, clips):
    with ShardWriter(folder, 0) as writer:
        for clip in clips:
            writer.write(clip)
    write_record(folder, UnitRecord(0, "input", "settings", writer.shards, {}))
    write_manifest(folder, clips[0].info.dataset, clips[0].info.tokenizer, 1)
    return folder


def know_starts(model, num_starts, context_frames, seed=0):
    """Let the model know the states that the value protocol starts from."""
    world = Tabletop(num_starts)
    world.reset(FIRST_START_SEED + seed * num_starts + np.arange(num_starts))
    for _ in range(context_frames - 1):
        world.step(np.repeat(STANDING_STILL[None], num_starts, 0))
    model.remember(world)


@pytest.fixture(scope="session")
def fakes():
    return SimpleNamespace(
        Simulator=Simulator, Imagination=SimulatedImagination, record=record, write_clips=write_clips,
        know_starts=know_starts,
    )  # fmt: skip

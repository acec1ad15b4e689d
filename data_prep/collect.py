"""Rolls graded policies in the tabletop world and writes their episodes as RLDS."""

import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from whale.data_prep.config import CollectConfig
from whale.data_prep.rlds_writer import write_rlds
from whale.errors import UserError
from whale.progress import Progress
from whale.sim.base import Camera
from whale.sim.policies import SKILLS, TabletopPolicy
from whale.sim.tabletop import SHIFTED_CAMERA, SHIFTED_PALETTE, Palette, Tabletop

BATCH = 96
"""Scenes simulated at a time, few enough for the processor's cache. A scene depends on its own seed alone."""
EPISODES_PER_SEED = 1_000_000
INSTRUCTION = "move the first disc onto the ring"
SCENES = {"standard": (Camera(), Palette()), "shifted": (SHIFTED_CAMERA, SHIFTED_PALETTE)}


def policy_names(config: CollectConfig) -> tuple[str, ...]:
    """The policies that take turns: episode i is played by number i mod their count.

    Raises:
        UserError: a name is not that of a policy.
    """
    for name in config.policies or ():
        if name not in SKILLS:
            raise UserError(f"there is no policy {name!r}", f"choose from: {', '.join(SKILLS)}")
    return config.policies or tuple(SKILLS)


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def simulate(config: CollectConfig, first: int, count: int) -> dict[str, np.ndarray]:
    """Play episodes first to first + count - 1 together.

    Returns arrays with leading [count, steps]: `image` uint8 [..., H, W, 3], `state` float32 [..., 4], `action` float32
    [..., 7], `reward` float32 and `terminal` bool (the frame is of a terminated scene); and, with leading [count],
    `seed` int64 and `success` bool. The action and reward of the last frame are zero.
    """
    names = policy_names(config)
    camera, palette = SCENES[config.scene]
    numbers = np.arange(first, first + count)
    seeds = config.seed * EPISODES_PER_SEED + numbers
    world = Tabletop(count, camera, palette)
    world.reset(seeds)
    turns = [np.flatnonzero(numbers % len(names) == turn) for turn in range(len(names))]
    played = [(TabletopPolicy(SKILLS[name], seeds[rows], camera, palette), rows)
              for name, rows in zip(names, turns, strict=True) if len(rows)]
    shape = (count, config.steps)
    found: dict[str, np.ndarray] = {
        "image": np.zeros((*shape, camera.size_px, camera.size_px, 3), np.uint8),
        "state": np.zeros((*shape, world.proprio().shape[1]), np.float32),
        "action": np.zeros((*shape, 7), np.float32),
        "reward": np.zeros(shape, np.float32),
        "terminal": np.zeros(shape, bool),
    }
    for t in range(config.steps):
        found["image"][:, t], found["state"][:, t] = world.render(), world.proprio()
        found["terminal"][:, t] = world.terminated
        if t < config.steps - 1:
            for policy, rows in played:
                found["action"][rows, t] = policy.act(found["image"][rows, t])
            found["reward"][:, t] = world.step(found["action"][:, t])[0]
    return found | {"seed": seeds, "success": world.success()}


def _episode(config: CollectConfig, played: dict[str, np.ndarray], row: int, number: int) -> dict[str, Any]:
    """One episode as RLDS: as many steps as frames; it ends at the frame of a terminated scene."""
    terminal = played["terminal"][row]
    last = int(terminal.argmax()) if terminal.any() else config.steps - 1
    steps = []
    for t in range(last + 1):
        ends = t == last
        steps.append({
            "observation": {"image": _png(played["image"][row, t]), "state": played["state"][row, t]},
            "action": np.zeros(7, np.float32) if ends else played["action"][row, t],
            "reward": np.float32(0.0) if ends else played["reward"][row, t],
            "discount": np.float32(0.0 if terminal[t] else 1.0),
            "is_first": t == 0, "is_last": ends, "is_terminal": bool(terminal[t]),
            "language_instruction": INSTRUCTION,
        })
    names = policy_names(config)
    metadata = {
        "file_path": f"tabletop/{config.scene}/{config.seed}/{number:06d}", "policy": names[number % len(names)],
        "seed": int(played["seed"][row]), "success": bool(played["success"][row]),
    }
    return {"steps": steps, "episode_metadata": metadata}


def collect(config: CollectConfig) -> None:
    """Write `<out>/tabletop/1.0.0`.

    Raises:
        UserError: a policy does not exist, or there are more shards than episodes.
    """
    policy_names(config)
    if config.shards > config.episodes:
        raise UserError(f"{config.episodes} episodes do not fill {config.shards} shards", "ask for fewer `shards`")
    counts = {"success": 0, "terminated": 0, "frames": 0}

    def episodes() -> Iterator[tuple[int, dict[str, Any]]]:
        progress = Progress("collect", config.episodes, "episodes")
        for first in range(0, config.episodes, BATCH):
            played = simulate(config, first, min(BATCH, config.episodes - first))
            for row in range(len(played["seed"])):
                episode = _episode(config, played, row, first + row)
                counts["success"] += episode["episode_metadata"]["success"]
                counts["terminated"] += episode["steps"][-1]["is_terminal"]
                counts["frames"] += len(episode["steps"])
                yield first + row, episode
                progress.advance()
        progress.close()

    size_px = SCENES[config.scene][0].size_px
    folder = write_rlds(config.out, "tabletop", size_px, 4, config.shards, episodes)
    sys.stdout.write(
        f"{folder}: {config.episodes} episodes, {counts['frames']} frames, {counts['success']} successes, "
        f"{counts['terminated']} ended early\n"
    )

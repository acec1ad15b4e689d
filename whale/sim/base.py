"""What every built-in world offers: batched, deterministic, with states that can be read and set.

A world holds N independent scenes. Policies that are compared must start from common states (method, section 5), so
`state` and `set_state` copy the full simulator state of every scene; nothing else influences what follows.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A top-down orthographic camera: which world point each pixel shows."""

    size_px: int = 64
    """Height and width of the image."""
    width_m: float = 0.5
    """Side of the square of table that the image shows."""
    rotation_rad: float = 0.0
    """Rotation of the camera about the table's centre, counter-clockwise: the picture turns clockwise."""

    def pixel_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """World x and y of every pixel centre in metres, float32 [H, W]; the table's centre is the origin, y is up."""
        step_m = self.width_m / self.size_px
        axis = (np.arange(self.size_px, dtype=np.float32) + 0.5) * step_m - self.width_m / 2
        right, up = np.meshgrid(axis, -axis)
        cos, sin = np.cos(self.rotation_rad), np.sin(self.rotation_rad)
        return (cos * right - sin * up).astype(np.float32), (sin * right + cos * up).astype(np.float32)


class World(Protocol):
    """N simulated scenes with known dynamics, rewards and images."""

    def reset(self, seeds: np.ndarray) -> None:
        """Draw the start state of scene i from seeds[i] alone (integers [N])."""

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Apply canonical actions, float32 [N, 7]; returns reward float32 [N] and terminated bool [N]."""

    def render(self) -> np.ndarray:
        """The camera's view, uint8 [N, H, W, 3]."""

    def state(self) -> dict[str, Any]:
        """A copy of the full state."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Return to a state read earlier."""

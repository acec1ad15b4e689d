"""What `whale play` is told."""

from dataclasses import field
from pathlib import Path

from whale.config import configclass
from whale.uncertainty import Retracing


@configclass
class PlayConfig:
    """A page to drive the robot in a world model, on this machine unless another host is asked for."""

    models: dict[str, Path]
    """Exported world models by the name that the page shows, the one to begin with first: folders, or hub ids."""
    clips: Path
    """Pixel clips whose episodes are started from, and shown beside what is imagined."""
    split: str = "val"
    """Split of the clips: `val` was not trained on."""
    max_episodes: int = 50
    """Episodes to choose from: the first so many that are long enough."""
    context_frames: int = 4
    """Recorded frames that the model is given before it is driven."""
    max_steps: int = 200
    """Steps of the longest imagined episode; its frames are kept in memory."""
    retracing: Retracing | None = Retracing()
    """How uncertainty is estimated; null does without. A model whose actions cannot be merged has none."""
    policies: dict[str, str] = field(default_factory=dict)
    """Policies to let drive, by the name that the page shows: what `whale.policy.load_policy` takes."""
    policy_timeout_sec: float = 10.0
    """Time that a policy has for one action; one that takes longer is told to hang."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but this machine's own lets everyone who reaches it drive, and is warned of."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    max_sessions: int = 16
    """Episodes kept at once, one for each viewer; the one not used for longest makes room."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.models:
            raise ValueError("models names none; give at least one as name: folder")
        if "recorded" in self.models:
            raise ValueError("models names one `recorded`, and that is the recording's name")
        if self.context_frames < 1 or self.max_episodes < 1 or self.max_steps < 1 or self.max_sessions < 1:
            raise ValueError("context_frames, max_episodes, max_steps and max_sessions must be at least 1")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port {self.port} is not between 0 and 65535")
        if not self.policy_timeout_sec > 0:
            raise ValueError(f"policy_timeout_sec {self.policy_timeout_sec} must be positive")

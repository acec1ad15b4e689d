"""Configuration of the adaptation tasks; each part is defined beside what it configures."""

from pathlib import Path
from typing import Literal

from whale.clips.loader import DataConfig
from whale.config import configclass
from whale.engine import EngineConfig
from whale.loop import LoopConfig
from whale.objectives.dynamics_loss import DynamicsLossConfig
from whale.objectives.tokenizer_loss import TokenizerLossConfig
from whale.objectives.validation import ValidationConfig
from whale.optim import OptimConfig
from whale.tracker import TrackerConfig


@configclass
class AdaptTokenizerConfig:
    """How the tokenizer is fitted to the demonstrations' images before the dynamics are adapted."""

    loop: LoopConfig
    """How long to train."""
    frames: int = 8
    """Window length in frames."""
    batch: int = 6
    """Clips a step."""
    loss: TokenizerLossConfig = TokenizerLossConfig()
    """Weights of the loss."""
    optim: OptimConfig = OptimConfig()
    """Optimiser."""
    validation_clips: int = 24
    """Held-out clips that a validation scores."""


@configclass
class WorldModelAdaptationConfig:
    """`whale finetune world_model`."""

    run: Path
    """Run folder; the same command again goes on from its newest checkpoint."""
    source: Path
    """The exported world model to adapt: a folder, or a hub id `organisation/name`."""
    demos: DataConfig
    """Pixel clips of the demonstrations; `clips` of a source limits how many are used."""
    tokenizer: AdaptTokenizerConfig | Path | None
    """How to fit the tokenizer; or an exported tokenizer to use; or null to keep the source's."""
    loop: LoopConfig
    """How long to adapt the dynamics."""
    from_scratch: bool = False
    """Start dynamics and behaviour from random weights: the baseline that adaptation is measured against."""
    statistics: Literal["own", "source"] = "own"
    """Action and reward statistics: of the demonstrations, or the source model's for the dataset of the same name."""
    loss: DynamicsLossConfig = DynamicsLossConfig()
    """Weights of the loss."""
    optim: OptimConfig = OptimConfig()
    """Optimiser."""
    engine: EngineConfig = EngineConfig()
    """Devices and precision."""
    tracker: TrackerConfig = TrackerConfig()
    """Where metrics go."""
    validation: ValidationConfig = ValidationConfig(batches=4)
    """What a validation scores, and what it asks for."""

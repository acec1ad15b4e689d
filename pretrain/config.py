"""Configurations of the pretraining tasks; each part is defined beside what it configures."""

from pathlib import Path

from whale.clips.loader import DataConfig
from whale.config import configclass
from whale.engine import EngineConfig
from whale.loop import LoopConfig
from whale.models.behavior import BehaviorConfig
from whale.models.dynamics import DynamicsConfig
from whale.models.tokenizer import TokenizerConfig
from whale.objectives.dynamics_loss import DynamicsLossConfig
from whale.objectives.tokenizer_loss import TokenizerLossConfig
from whale.objectives.validation import ValidationConfig
from whale.optim import OptimConfig
from whale.tracker import TrackerConfig


@configclass
class TrainTokenizerConfig:
    """`whale pretrain tokenizer`."""

    run: Path
    """Run folder; the same command again goes on from its newest checkpoint."""
    data: DataConfig
    """Pixel clips."""
    loop: LoopConfig
    """How long to train."""
    model: TokenizerConfig = TokenizerConfig()
    """Size of the tokenizer."""
    loss: TokenizerLossConfig = TokenizerLossConfig()
    """Weights of the loss."""
    optim: OptimConfig = OptimConfig()
    """Optimiser."""
    engine: EngineConfig = EngineConfig()
    """Devices and precision."""
    tracker: TrackerConfig = TrackerConfig()
    """Where metrics go."""
    initial_clips: int = 100
    """Clips whose frames start the codebook by k-means."""
    validation_clips: int = 24
    """Held-out clips that a validation scores."""


@configclass
class TrainDynamicsConfig:
    """`whale pretrain dynamics`."""

    run: Path
    """Run folder; the same command again goes on from its newest checkpoint."""
    data: DataConfig
    """Token clips."""
    tokenizer: Path
    """The exported tokenizer that made the tokens: a folder, or a hub id `organisation/name`."""
    loop: LoopConfig
    """How long to train."""
    dynamics: DynamicsConfig = DynamicsConfig()
    """Size of the dynamics."""
    behavior: BehaviorConfig = BehaviorConfig()
    """Size of the behaviour networks."""
    loss: DynamicsLossConfig = DynamicsLossConfig()
    """Weights of the loss."""
    optim: OptimConfig = OptimConfig()
    """Optimiser."""
    engine: EngineConfig = EngineConfig()
    """Devices and precision."""
    tracker: TrackerConfig = TrackerConfig()
    """Where metrics go."""
    validation: ValidationConfig = ValidationConfig()
    """What a validation scores, and what it asks for."""


@configclass
class ExportConfig:
    """`whale pretrain export`."""

    run: Path
    """Run folder of `pretrain dynamics`."""
    out: Path
    """Folder of the export, replaced if it exists."""
    step: int | None = None
    """Checkpoint to export; null takes the newest."""

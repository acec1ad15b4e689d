"""Configuration of the evaluation tasks."""

from dataclasses import field
from pathlib import Path

from whale.config import configclass
from whale.eval.results import Need
from whale.planner import PlannerConfig
from whale.uncertainty import Retracing


@configclass
class TokenEntropyConfig:
    """Cross-entropy of the recorded tokens under what is imagined (`whale/eval/token_entropy.py`)."""

    samples: int = 8
    """Rollouts whose predictions are averaged: few of them say too little of what may happen. On held-out Franka frames
    8 ahead one rollout costs 2.6 nats a token, two 2.2, four 1.9 and eight 1.8."""
    temperature: float = 1.0
    """Of the tokens drawn in them."""
    fit_episodes: int | None = 32
    """Episodes of the train split that the mixtures with the unigram are fitted on, drawn by the seed; null for all."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.samples < 1 or self.temperature <= 0:
            raise ValueError("samples must be at least 1, temperature positive")


@configclass
class FidelityConfig:
    """Open-loop fidelity of a world model on held-out episodes."""

    name: str = "fidelity"
    """Name of the result: `<out>/<name>.json`, with its media in `<out>/<name>/`."""
    out: Path
    """Folder of the results."""
    model: Path
    """Exported world model: a folder, or a hub id `organisation/name`."""
    twin: Path | None = None
    """Exported twin with `dynamics.action_blind`, scored beside it: what the model knows without actions."""
    clips: Path
    """Folder of pixel clips; clips that start their episode are scored."""
    split: str = "val"
    """Split of the clips."""
    max_episodes: int | None = None
    """Score at most this many episodes, drawn by the seed; null for all."""
    min_episodes: int = 2
    """Refuse to score fewer episodes than this at any horizon."""
    window_every: int | None = None
    """Score a window every so many frames of an episode, as long as it reaches the last horizon; null scores its start
    alone. Figures are means over the episodes of the mean over their windows."""
    context_frames: int = 4
    """Recorded frames that the model is given before it imagines."""
    horizons: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Numbers of imagined frames after which fidelity is measured, ascending."""
    judge_horizon: int = 8
    """The horizon, one of `horizons`, of the headline figures; gains in PSNR are given from it on."""
    batch: int = 16
    """Episodes imagined at once; it changes speed and memory only."""
    seed: int = 0
    """Seed of the drawn episodes, of whose actions are shuffled to whom, and of the bootstrap."""
    needs: dict[str, Need] = field(default_factory=dict)
    """Bounds by figure name, each `{at_least: x}` or `{at_most: x}`."""
    tokens: TokenEntropyConfig | None = None
    """Score token cross-entropies too; null does not."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if not self.horizons or list(self.horizons) != sorted(set(self.horizons)) or self.horizons[0] < 1:
            raise ValueError(f"horizons {self.horizons} must be positive and ascending")
        if self.judge_horizon not in self.horizons:
            raise ValueError(f"judge_horizon {self.judge_horizon} is not one of the horizons {self.horizons}")
        if self.context_frames < 1 or self.batch < 1 or self.min_episodes < 2 or self.seed < 0:
            raise ValueError("context_frames and batch must be at least 1, min_episodes at least 2, seed at least 0")
        if self.window_every is not None and self.window_every < 1:
            raise ValueError(f"window_every {self.window_every} must be at least 1, or null")


@configclass
class ValueConfig:
    """Closed-loop value accuracy on the tabletop: graded image policies in the true world and in imagination."""

    name: str = "value"
    """Name of the result: `<out>/<name>.json`."""
    out: Path
    """Folder of the results."""
    model: Path
    """Exported world model: a folder, or a hub id `organisation/name`."""
    undertrained: Path | None = None
    """A deliberately weak export; its figures are reported with the suffix `_undertrained`."""
    clips: Path
    """Pixel clips whose train split fits the null baseline, a regression on actions alone."""
    num_starts: int = 16
    """Start states from which every policy is run."""
    horizon: int = 32
    """Steps of a return, undiscounted; nothing is added for what comes after."""
    context_frames: int = 4
    """Frames that the model is given: the start state and steps of standing still with the gripper open."""
    seed: int = 0
    """Seed of start states and policies (disjoint from the seeds of collected episodes), and of the bootstrap."""
    needs: dict[str, Need] = field(default_factory=dict)
    """Bounds by figure name, each `{at_least: x}` or `{at_most: x}`."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.context_frames < 1 or self.horizon < 1 or self.num_starts < 2 or self.seed < 0:
            raise ValueError("context_frames and horizon must be at least 1, num_starts at least 2, seed at least 0")


@configclass
class UncertaintyConfig:
    """Whether signals of uncertainty know that an imagined frame is wrong, on held-out episodes."""

    name: str = "uncertainty"
    """Name of the result: `<out>/<name>.json`, with its media in `<out>/<name>/`."""
    out: Path
    """Folder of the results."""
    model: Path
    """Exported world model that imagines: a folder, or a hub id `organisation/name`."""
    members: tuple[Path, ...] = ()
    """Exports that make an ensemble with it: other seeds, the same tokenizer and data. None of them: no ensemble."""
    clips: Path
    """Folder of pixel clips; clips that start their episode are scored, and hold the context and the horizon."""
    split: str = "val"
    """Split of the clips."""
    max_episodes: int | None = None
    """Score at most this many episodes, drawn by the seed; null for all."""
    min_episodes: int = 20
    """Refuse fewer episodes than this: the 90th percentile of 20 leaves two above it."""
    context_frames: int = 4
    """Recorded frames that the model is given before it imagines."""
    horizon: int = 16
    """H: every imagined frame from 1 to H is judged."""
    retracing: Retracing | None = Retracing()
    """How the model's own predictions are retraced; null leaves it out."""
    dropout_samples: int = 0
    """Dropout masks that are compared, for a model that was trained with dropout; 0 leaves it out."""
    calibrate: bool = False
    """Store the calibration in the export `model`, a folder then: what `whale play`, environments and planners need to
    tell an expected error."""
    batch: int = 32
    """Episodes imagined at once; it changes speed and memory only."""
    seed: int = 0
    """Seed of the drawn episodes, of the dropout masks and of the bootstrap."""
    needs: dict[str, Need] = field(default_factory=dict)
    """Bounds by figure name, each `{at_least: x}` or `{at_most: x}`."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.context_frames < 1 or self.horizon < 1 or self.batch < 1 or self.min_episodes < 20 or self.seed < 0:
            raise ValueError("context_frames, horizon and batch must be at least 1, min_episodes at least 20, seed 0")
        if self.dropout_samples < 0 or self.dropout_samples == 1:
            raise ValueError(f"dropout_samples {self.dropout_samples}: one mask alone disagrees with nothing")
        if self.calibrate and self.retracing is None:
            raise ValueError("calibrate needs retracing, whose signal is calibrated")
        if self.calibrate and self.split == "train":
            raise ValueError("calibrate needs held-out episodes: those of split `train` taught the model")


@configclass
class PlanningConfig:
    """A planner in the true tabletop, from rendered images alone, beside the policies that made the data."""

    name: str = "planning"
    """Name of the result: `<out>/<name>.json`."""
    out: Path
    """Folder of the results."""
    model: Path
    """Exported world model: a folder, or a hub id `organisation/name`."""
    planner: PlannerConfig = PlannerConfig()
    """The planner of the headline figures; it maximises the imagined return."""
    others: dict[str, PlannerConfig] = field(default_factory=dict)
    """Planners run from the same starts, by the suffix of their figures: another `uncertainty_weight`, say."""
    to_image: PlannerConfig | None = None
    """A planner that is shown an image of the first disc on the goal, and no reward; suffix `image`. Null runs none."""
    replan_every: int = 2
    """Steps of a plan that are done before the next."""
    num_starts: int = 16
    """Start states from which each planner and each policy is run."""
    horizon: int = 32
    """Steps of an episode; its return is undiscounted."""
    context_frames: int = 4
    """Frames seen before the first plan: the start state and steps of standing still with the gripper open."""
    seed: int = 0
    """Seed of start states, planners and policies (disjoint from the seeds of collected episodes), and of the
    bootstrap."""
    needs: dict[str, Need] = field(default_factory=dict)
    """Bounds by figure name, each `{at_least: x}` or `{at_most: x}`."""

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        if self.context_frames < 1 or self.horizon < 1 or self.num_starts < 2 or self.seed < 0:
            raise ValueError("context_frames and horizon must be at least 1, num_starts at least 2, seed at least 0")
        if taken := {"image", "planner"} & set(self.others):
            raise ValueError(f"others may not be named {' or '.join(taken)}, as results call the planners beside them")
        planners = [self.planner, *self.others.values(), *([self.to_image] if self.to_image else [])]
        if not 1 <= self.replan_every <= min(each.horizon for each in planners):
            raise ValueError(f"replan_every {self.replan_every} must be at least 1, and within every planner's horizon")
        if any(each.uncertainty_weight for each in planners) and self.context_frames < 2:
            raise ValueError("uncertainty_weight needs two context_frames: retracing goes a frame back")


@configclass
class FinetuneConfig:
    """Two fidelity results on the same episodes: adapted from the pretrained model, and trained from scratch."""

    finetuned: Path
    """Fidelity result of the adapted model."""
    scratch: Path
    """Fidelity result of the model trained from scratch on the same demonstrations for as many steps."""
    need: Need | None = None
    """Bound of `finetune_psnr_gain_over_scratch`."""


@configclass
class ReportConfig:
    """Results merged into `results.json` and shown as one HTML page."""

    title: str
    """Headline of the page."""
    out: Path
    """Folder of `results.json`, `report.html` and `picture.png`."""
    parts: tuple[Path, ...]
    """Results of the other tasks, whose figures are merged."""
    finetune: FinetuneConfig | None = None
    """The comparison of adaptation with training from scratch."""
    budget: Path | None = None
    """Timings of the whole pipeline, as `demo.sh` writes them."""
    seed: int = 0
    """Seed of the bootstrap."""

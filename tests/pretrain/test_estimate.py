"""The plan of a run against what it really takes."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_model import CARD

from whale import cli
from whale.clips.batch import empty_batch
from whale.config import load_config
from whale.data_prep.oxe.mixtures import mixture_of
from whale.engine import EngineConfig, open_engine
from whale.estimate import memory, nothing_allocated, parameter_counts, peak_activations
from whale.models.behavior import BehaviorConfig
from whale.models.dynamics import DynamicsConfig
from whale.models.flops import training_flops
from whale.models.tokenizer import TokenizerConfig, VideoTokenizer
from whale.models.world_model import WorldModel, WorldModelConfig
from whale.objectives.clip_noise import ClipNoise
from whale.objectives.dynamics_loss import DynamicsLossConfig
from whale.objectives.dynamics_objective import DynamicsObjective
from whale.objectives.tokenizer_loss import TokenizerLossConfig, TokenizerObjective
from whale.optim import OptimConfig
from whale.plan import TRAJECTORIES, TRAJECTORY_FRAMES
from whale.pretrain.config import TrainDynamicsConfig, TrainTokenizerConfig
from whale.pretrain.estimate import ASSUMED_TOKENIZER, EMPTY_CARD
from whale.ranks import Ranks

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SIZES = {"26m": 26e6, "77m": 77e6, "154m": 154e6, "414m": 414e6}
SMALL = WorldModelConfig(
    tokenizer=TokenizerConfig(width=64, heads=2),
    dynamics=DynamicsConfig(width=192, heads=3, depth=4, band=4),
    behavior=BehaviorConfig(width=64, heads=2),
    datasets={"a": CARD},
)
CLIPS, FRAMES = 2, 8


def dynamics(config: WorldModelConfig) -> DynamicsObjective:
    return DynamicsObjective(WorldModel(config), DynamicsLossConfig(), [])


def tokenizer(config: WorldModelConfig) -> TokenizerObjective:
    return TokenizerObjective(VideoTokenizer(config.tokenizer), TokenizerLossConfig(), torch.zeros(1))


def really_allocated(build, shape: tuple[int, ...], engine: EngineConfig, optim: OptimConfig) -> int:
    """Most bytes that PyTorch's allocator has handed out at a time, from building a model to the end of two steps."""
    AcceleratorState._reset_state(True)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        objective = build(SMALL)
        opened = open_engine(engine, objective, objective.model, optim, 2 * CLIPS, Ranks())
        batch = empty_batch(CLIPS, FRAMES, shape) | {"control_period_sec": torch.full((CLIPS,), 0.2)}
        batch |= {name: torch.ones_like(batch[name]) for name in ("valid", "action_mask")}
        counts = objective.counts(batch)
        for _ in range(2):
            for last in (False, True):
                opened.accumulate(last, batch, counts, ClipNoise(0, 0, batch["position"]))
            assert math.isfinite(opened.step(1.0))
            objective.after_step(torch.Generator())
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


@pytest.mark.filterwarnings("ignore:.*profiler.*")
@pytest.mark.parametrize(("build", "shape", "precision", "recompute", "optimizer"), [
    (dynamics, (64,), "fp32", False, "adamw"),
    pytest.param(dynamics, (64,), "fp32", True, "muon", marks=pytest.mark.slow),
    pytest.param(dynamics, (64,), "bf16", False, "muon", marks=pytest.mark.slow),
    (dynamics, (64,), "bf16", True, "adamw"),
    (tokenizer, (64, 64, 3), "fp32", False, "adamw"),
])  # fmt: skip
def test_memory_is_what_a_training_step_allocates(build, shape, precision, recompute, optimizer):
    optim, low = OptimConfig(name=optimizer), precision == "bf16"
    engine = EngineConfig(device="cpu", precision=precision, micro_batch=CLIPS, recompute=recompute)
    real = really_allocated(build, shape, engine, optim)
    with nothing_allocated():
        objective = build(SMALL)
        activations = peak_activations(
            objective, CLIPS, FRAMES, shape, autocast=low, low_precision_weights=False, fused=False,
            recompute=recompute,
        )  # fmt: skip
        told = memory(objective.model, optim, None, low, 1, activations)
    assert told.total == pytest.approx(real, rel=0.1)


@pytest.mark.parametrize("fused", [False, True])
def test_activations_grow_by_the_same_with_every_block(fused):
    """Which is what the plan of a deep model is extrapolated by."""
    with nothing_allocated():
        peaks = [
            peak_activations(
                dynamics(replace(SMALL, dynamics=replace(SMALL.dynamics, depth=depth))), CLIPS, FRAMES, (64,),
                autocast=True, low_precision_weights=True, fused=fused, recompute=False,
            )
            for depth in (2, 3, 6)
        ]  # fmt: skip
    assert peaks[2] == pytest.approx(peaks[0] + 4 * (peaks[1] - peaks[0]), rel=1e-3)


def test_nothing_is_allocated():
    with nothing_allocated():
        model = WorldModel(replace(SMALL, dynamics=DynamicsConfig(width=65536, heads=64, depth=1)))
    assert sum(parameter_counts(model).values()) > 60e9


@pytest.fixture(scope="module")
def ladder() -> dict[str, tuple[TrainDynamicsConfig, WorldModelConfig, dict[str, int]]]:
    """By name: the configuration, the model's, and the parameters of its parts."""
    found = {}
    for name in SIZES:
        config = load_config(TrainDynamicsConfig, [CONFIGS / f"pretrain/whale_x_{name}.yaml"])
        cards = {str(source.folder): EMPTY_CARD for source in config.data.sources}
        sizes = WorldModelConfig(
            tokenizer=ASSUMED_TOKENIZER, dynamics=config.dynamics, behavior=config.behavior, datasets=cards
        )
        with nothing_allocated():
            found[name] = config, sizes, parameter_counts(WorldModel(sizes))
    return found


def test_one_tokenizer_for_all(ladder):
    trained = load_config(TrainTokenizerConfig, [CONFIGS / "pretrain/tokenizer_256px.yaml"])
    assert trained.model == ASSUMED_TOKENIZER
    assert {config.tokenizer for config, _, _ in ladder.values()} == {trained.run / "export"}
    tokens = [source.folder for source in ladder["414m"][0].data.sources]
    assert [folder.name for folder in tokens] == [source.folder.name for source in trained.data.sources]


@pytest.mark.parametrize("name", SIZES)
def test_a_rung_has_the_size_of_its_name(ladder, name):
    assert sum(ladder[name][2].values()) == pytest.approx(SIZES[name], rel=0.01)


@pytest.mark.parametrize("name", SIZES)
def test_a_rung_is_trained_as_its_comment_derives(ladder, name):
    """DeepSeek LLM (arXiv 2401.02954, section 3.1): batch and rate from the FLOPs of the run."""
    config, sizes, _ = ladder[name]
    frames = TRAJECTORIES * TRAJECTORY_FRAMES
    flops = training_flops(sizes, config.data.frames) * frames
    clips = 0.292 * flops**0.3271 / config.data.frames / ASSUMED_TOKENIZER.tokens_per_frame
    assert config.data.batch == 2 ** math.ceil(math.log2(clips))
    assert config.optim.lr == pytest.approx(0.3118 * flops**-0.125, rel=0.01)
    assert config.loop.steps == round(frames / config.data.frames / config.data.batch)
    assert config.data.frames >= 2 * config.dynamics.band
    weights = {source.folder.name: source.weight for source in config.data.sources}
    assert weights == pytest.approx(mixture_of("whale_x"), abs=0.05)


def test_the_plan_of_the_largest_rung(capsys):
    words = [str(CONFIGS / name) for name in ("pretrain/whale_x_414m.yaml", "cluster/nodes_64_gpus.yaml")]
    assert cli.main(["pretrain", "dynamics", *words, "--dry-run"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["total", "413.05", "M"] in lines
    chosen = [line for line in lines if "*" in line]
    assert [line[:2] for line in chosen] == [["1", "2"], ["8", "2"], ["64", "2"]]
    for line in chosen:
        *parts, total, again, total_again = map(float, line[4:])
        assert sum(parts) == pytest.approx(total, abs=0.03) and again < parts[-1] and total_again < total
    optimizer = [float(line[6]) for line in chosen]  # two moments and the fp32 copy of 401.5M, shared out
    assert optimizer == pytest.approx([12 * 401.49e6 / n / 2**30 for n in (1, 8, 64)], abs=0.01)

"""The DeepSpeed back end: ZeRO stages 0 to 3 (Rajbhandari et al., 2020), driven directly.

Under bf16, stages 1 to 3 hold the weights in bfloat16 and the optimiser's own copy in fp32; stage 0 holds fp32 weights.
All run the objective under autocast, and buffers (a codebook that moves by averages) stay in fp32.
"""

import contextlib
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from whale.checkpoint import HostCopies, read_average, refuse_other_shapes, write_average, write_weights
from whale.ema import WeightAverage, averaged
from whale.engine import EngineConfig, device_of, evaluating, on_device
from whale.errors import UserError
from whale.optim import OptimConfig, build_optimizers, set_rate
from whale.ranks import BACKENDS, Ranks
from whale.zero_files import capture_files, clear_padding, load_files


def render(config: EngineConfig, grad_clip: float, batch: int, accumulation: int, world_size: int) -> dict[str, Any]:
    """DeepSpeed's own configuration, as it is written to `deepspeed.json`."""
    stage, low_precision = config.zero, config.precision == "bf16" and config.zero != 0
    zero: dict[str, Any] = {"stage": stage}
    if device_of(config).type == "cpu":
        # No fragments to fear; and blocks of up to 32 MB are used again, where larger ones are paged in anew each step.
        zero |= {"contiguous_gradients": False, "reduce_bucket_size": 5_000_000}
    if config.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    rendered: dict[str, Any] = {
        "train_batch_size": batch,
        "train_micro_batch_size_per_gpu": batch // world_size // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # its own Adam for the CPU needs a compiler
        "steps_per_print": 2**31,
    }
    if low_precision:
        rendered |= {
            "bf16": {"enabled": True, "check_grad_overflow": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
    return rendered


class _UnderAutocast(nn.Module):
    """The objective as DeepSpeed sees it: a forward for training and one for validation, so that stage 3, which gathers
    weights where a forward needs them, serves both.
    """

    def __init__(self, objective: nn.Module, device_type: str, enabled: bool):
        super().__init__()
        self.objective = objective
        self._device_type, self._enabled = device_type, enabled

    def forward(self, *arguments: Any) -> Any:
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._enabled):
            return self.objective(*arguments) if arguments else self.objective.validate()  # type: ignore[operator]


class ZeroEngine:
    """One process under ZeRO; see `whale.engine.Engine`."""

    def __init__(
        self, config: EngineConfig, objective: nn.Module, model: nn.Module, optim: OptimConfig, accumulation: int,
        batch: int, here: Ranks,
    ):  # fmt: skip
        if optim.name != "adamw":
            raise UserError(
                f"optim.name is {optim.name}, which needs whole matrices; under ZeRO each process holds pieces",
                "set optim.name=adamw, or engine.zero=null",
            )
        device = device_of(config)
        deepspeed = _import_deepspeed(device.type == "cpu")
        self._gathered = deepspeed.zero.GatheredParameters
        self.accumulation, self._here, self._model, self._reshard = accumulation, here, model, config.reshard
        self.layout = {"zero": config.zero, "world_size": here.world_size, "offload": config.offload_optimizer}
        self.rendered: dict[str, Any] | None = render(config, optim.grad_clip, batch, accumulation, here.world_size)
        buffers = {name: value.clone() for name, value in objective.named_buffers()}
        self._wrapped = _UnderAutocast(objective, device.type, config.precision == "bf16")
        (optimizer,) = build_optimizers(model, optim)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells its memory whatever its logger is set to
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=self._wrapped, optimizer=optimizer, config=self.rendered, dist_init_required=False
            )
        if config.zero == 3:
            clear_padding(self._engine, here.rank)
        for name, value in objective.named_buffers():
            value.data = buffers[name].to(value.device)
        self._copies, self._compiled = HostCopies(), config.compile
        self._average = None if optim.ema_decay is None else WeightAverage(self._masters(), optim.ema_decay)

    def _masters(self) -> list[Tensor]:
        """What is averaged, as it lies on this process: its share of the fp32 weights, and the buffers."""
        if self.layout["zero"] == 0:
            return list(averaged(self._model).values())
        buffers = [value for value in averaged(self._model).values() if not isinstance(value, nn.Parameter)]
        if self.layout["zero"] == 3:
            return [*self._optimizer.fp32_partitioned_groups_flat, *buffers]
        return [*self._optimizer.single_partition_of_fp32_groups, *buffers]

    def _spread(self) -> None:
        """Make the weights that forwards use follow the fp32 weights."""
        if self.layout["zero"] == 3:
            self._optimizer.checkpoint_event_prologue()  # small weights that stay gathered are old now
            for group in range(len(self._optimizer.fp16_groups)):
                self._optimizer._reassign_or_swap_out_partitioned_parameters(group)
        elif self.layout["zero"]:
            self._optimizer.update_lp_params()

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Engine`."""
        return on_device(batch, self._engine.device)

    def accumulate(self, last: bool, *arguments: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Engine`."""
        loss, figures = self._engine(*arguments)
        self._engine.backward(loss)  # divides by the number of micro-batches
        if not last:
            self._engine.step()  # counts the micro-batch
        return loss.detach(), figures

    def step(self, rate: float) -> float:
        """See `Engine`."""
        set_rate([self._optimizer], rate)
        if self.layout["zero"] == 0:  # a plain optimiser, which does not look
            norm = float(nn.utils.get_total_norm(p.grad for p in self._model.parameters() if p.grad is not None))
            if math.isfinite(norm):
                self._engine.step()
        else:
            self._engine.step()
            norm = math.inf if self._optimizer.overflow else float(self._engine.get_global_grad_norm())
        if self._average and math.isfinite(norm):
            self._average.update()
        return norm

    def validate(self) -> dict[str, float]:
        """See `Engine`."""
        with evaluating(self._wrapped, self._compiled), self._averaged(spread=True):
            return self._engine()  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def _averaged(self, spread: bool) -> Iterator[None]:
        """Within, the fp32 weights are the averaged ones, where they are kept; with `spread`, all weights are."""
        self._exchange(spread)
        yield
        self._exchange(spread)

    def _exchange(self, spread: bool) -> None:
        if self._average:
            self._average.swap()
            if spread:
                self._spread()

    def snapshot(self, folder: Path) -> Callable[[], list[Path]]:
        """See `Engine`."""
        self._copies.begin()
        weights, average, mean = self._full_weights(), self._average, dict[str, Tensor]()
        if average:
            with self._averaged(spread=False):
                mean = self._full_weights()
        updates = average.updates if average else 0
        write_shards, is_main = capture_files(self._engine, folder, self._copies), self._here.is_main
        self._copies.finish()

        def write() -> list[Path]:
            files = write_shards() + (write_weights(folder, weights) if is_main else [])
            return files + (write_average(folder, mean, updates) if is_main and average else [])

        return write

    def load(self, folder: Path, saved: dict[str, Any]) -> None:
        """See `Engine`."""
        tensors = self._model.state_dict(keep_vars=True).items()
        own = {name: tuple(getattr(value, "ds_shape", value.shape)) for name, value in tensors}  # stage 3 has no shapes
        with safe_open(folder / "model.safetensors", "pt") as file:
            given = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, no dict
        refuse_other_shapes(own, given, str(folder))
        load_files(self._engine, folder, saved, self.layout, self._reshard, self._here)
        if self._average:
            mean, updates = read_average(folder)
            self._average.restore(updates)
            self._set_weights(mean)
            self._average.swap()

    @torch.no_grad()
    def _set_weights(self, weights: dict[str, Tensor]) -> None:
        """Put whole tensors in place of what is averaged."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

        for name, value in averaged(self._model).items():
            whole = weights[name].to(value.device)
            if self.layout["zero"] == 0 or not isinstance(value, nn.Parameter):
                value.copy_(whole)
            elif self.layout["zero"] == 3:  # its own function for whole weights fails where the last share is padded
                share = value.ds_tensor.ds_numel  # type: ignore[attr-defined]
                padded = nn.functional.pad(whole.flatten(), (0, share * self._here.world_size - whole.numel()))
                safe_set_local_fp32_param(value, padded[share * self._here.rank :][:share])
            else:
                safe_set_full_fp32_param(value, whole)

    @torch.no_grad()
    def _full_weights(self) -> dict[str, Tensor]:
        """All weights in fp32 and the buffers, copied to host memory on the main process."""
        from deepspeed.utils import safe_get_full_fp32_param

        weights = {}
        partitioned = self.layout["zero"] == 3
        for name, parameter in self._model.named_parameters():
            whole = safe_get_full_fp32_param(parameter) if parameter.requires_grad and self.layout["zero"] else None
            if whole is None:
                with self._gathered([parameter]) if partitioned else contextlib.nullcontext():
                    whole = parameter.detach().float().clone()
            if self._here.is_main:
                weights[name] = self._copies.copy(whole)
        persistent = self._model.state_dict().keys()
        buffers = {name: value for name, value in self._model.named_buffers() if name in persistent}
        return weights | {name: self._copies.copy(value) for name, value in buffers.items()}


def _import_deepspeed(cpu: bool) -> Any:
    """DeepSpeed, quiet, and joined to the process group that there is."""
    if cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError:
        raise UserError(
            "engine.zero is set, and DeepSpeed is not installed",
            "pip install 'whale[deepspeed]', or set engine.zero=null",
        ) from None
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel("ERROR")
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # Its all-reduce through shared memory needs a compiler, and a killed process leaves its buffers in /dev/shm.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo" if cpu else BACKENDS, store=store, rank=0, world_size=1)
    os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed.init_distributed("gloo" if cpu else "nccl", auto_mpi_discovery=False, verbose=False)
    return deepspeed

"""DeepSpeed's checkpoint files: written by another thread, read without running what a pickle says, and resharded.

A checkpoint holds `zero/` as DeepSpeed lays it out: one file of optimiser state a rank. Reading them at another world
size or stage goes through DeepSpeed's universal checkpoint.
"""

import contextlib
import io
import os
import pickle
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from whale.checkpoint import HostCopies
from whale.errors import UserError
from whale.ranks import Ranks, broadcast, wait_for_all

FOLDER = "zero"


def capture_files(engine: Any, folder: Path, copies: HostCopies) -> Callable[[], list[Path]]:
    """Copy what DeepSpeed would save under `folder`/zero; the function that is returned writes it."""
    from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine

    captured: dict[Path, Any] = {}

    class Capture(CheckpointEngine):
        """Takes files in memory in place of writing them."""

        def create(self, info: Any) -> None:
            pass

        def save(self, state_dict: Any, path: str) -> None:
            captured[Path(path)] = _copied(state_dict, copies)

        def load(self, path: str, map_location: Any = None) -> Any:
            raise NotImplementedError

        def commit(self, info: Any) -> bool:
            return True

        def preserves_storage_sharing(self) -> bool:
            return False

    own, engine.checkpoint_engine = engine.checkpoint_engine, Capture()
    engine._copy_recovery_script = lambda _: None  # model.safetensors holds what its script would make
    try:
        engine.save_checkpoint(str(folder), tag=FOLDER, save_latest=False)
    finally:
        engine.checkpoint_engine = own

    def write() -> list[Path]:
        for path, state in captured.items():
            with path.open("wb") as file:  # given a path, it would not say why it cannot write
                torch.save(state, file)
        return list(captured)

    return write


def _copied(value: Any, copies: HostCopies) -> Any:
    """The same structure with tensors copied to host memory, each with a storage of its own."""
    if isinstance(value, torch.Tensor):
        return copies.copy(value)
    if isinstance(value, dict):
        return type(value)((key, _copied(item, copies)) for key, item in value.items())
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_copied(item, copies) for item in value)
    return value


def load_files(
    engine: Any, folder: Path, saved: dict[str, Any], layout: dict[str, Any], reshard: bool, here: Ranks
) -> None:
    """Restore a DeepSpeed engine from the checkpoint in `folder`, made in the layout `saved`.

    Raises:
        UserError: it has another layout and `reshard` is off, or DeepSpeed cannot read it in this one.
    """
    _check(folder, saved, layout, reshard)
    same = saved == layout or layout["zero"] == 0  # stage 0 repeats everything on each process
    with _resharded(folder, saved["zero"], here) if not same else contextlib.nullcontext(folder) as source:
        engine._config.load_universal_checkpoint = not same
        groups = engine.optimizer.param_groups
        settings = [{name: value for name, value in group.items() if name != "params"} for group in groups]
        with _without_code(folder):
            engine.load_checkpoint(str(source), tag=FOLDER)
        if not same:
            _mend_resharded(engine.optimizer, settings)
        if layout["zero"] == 3:
            # It leaves small weights gathered; their first use is then not noted, and the backward pass finds none.
            engine.optimizer.checkpoint_event_prologue()
        engine._config.load_universal_checkpoint = False


def clear_padding(engine: Any, rank: int) -> None:
    """Zero what lies behind the end of a weight in a rank's share of it.

    Stage 3 leaves memory there that nobody has written; with it, equal runs would write unequal files.
    """
    padding = {}
    for parameter in engine.module.parameters():
        share = parameter.ds_tensor.ds_numel
        own = min(max(parameter.ds_numel - rank * share, 0), share)
        parameter.ds_tensor.data[own:] = 0
        padding[parameter] = slice(own, share)
    optimizer = engine.optimizer
    for parameters, flat in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        shares = flat.data.split([parameter.ds_tensor.ds_numel for parameter in parameters])
        for parameter, share in zip(parameters, shares, strict=True):
            share[padding[parameter]] = 0


def _mend_resharded(optimizer: Any, settings: list[dict[str, Any]]) -> None:
    """Undo what stage 3 mixes up when it reads a universal checkpoint.

    Every group gets the settings of the first (weight decay for all), and all get one and the same counter of steps,
    which then counts once for each group.
    """
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    for state in optimizer.optimizer.state.values():
        state["step"] = state["step"].clone()


def _check(folder: Path, saved: dict[str, Any], layout: dict[str, Any], reshard: bool) -> None:
    def told(one: dict[str, Any]) -> str:
        if one["zero"] is None:
            return "without ZeRO"
        count = one["world_size"]
        offloaded = " with the optimiser offloaded" if one["offload"] else ""
        return f"under ZeRO {one['zero']} by {count} process" + "es" * (count != 1) + offloaded

    before, now = (one["zero"] for one in (saved, layout))
    if (before in (1, 2)) != (now in (1, 2)) or (before == 3) != (now == 3) or before is None:
        raise UserError(
            f"{folder} was made {told(saved)}; this run is {told(layout)}, and DeepSpeed cannot carry the optimiser's "
            "state over (it can between stages 1 and 2, and between numbers of processes)",
            f"go on with engine.zero={'null' if before is None else before}",
        )
    if saved != layout and not reshard and now != 0:
        raise UserError(
            f"{folder} was made {told(saved)}; this run is {told(layout)}",
            "go on as before, or add engine.reshard=true to carry the state over",
        )


@contextlib.contextmanager
def _resharded(folder: Path, stage: int, here: Ranks) -> Iterator[Path]:
    """A temporary universal checkpoint beside `folder`, made by the main process."""
    target = folder.parent / f".tmp-universal-{folder.name}-{broadcast(os.getpid())}"
    try:
        if here.is_main:
            from deepspeed.checkpoint import ds_to_universal

            target.mkdir()
            arguments = Namespace(
                input_folder=str(folder / FOLDER), output_folder=str(target / FOLDER), num_extract_workers=1,
                num_merge_workers=1, keep_temp_folder=False, strict=True, inject_missing_state=stage < 3,
            )  # fmt: skip
            told = io.StringIO()
            with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), _without_code(folder):
                ds_to_universal.main(arguments)
        wait_for_all()
        yield target
        wait_for_all()
    finally:
        if here.is_main:
            shutil.rmtree(target)


@contextlib.contextmanager
def _without_code(folder: Path) -> Iterator[None]:
    """Within, torch.load builds tensors, containers and the classes below, whatever a file asks for.

    Raises:
        UserError: a file in `folder` asks for more.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]):
            yield
    except pickle.UnpicklingError:
        raise UserError(
            f"a file in {folder / FOLDER} holds more than the state of a run: code can hide in it",
            f"do not use files of unknown origin; delete {folder}, and the run goes on from the checkpoint before",
        ) from None
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before

"""Models that are loaded, saved and shared as users of transformers know it; what is stored is an exported folder."""

import tempfile
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn

from whale.calibration import Calibration, read_calibration
from whale.config import build_config
from whale.errors import UserError
from whale.export import load_export, read_export, save_export
from whale.hub import CALIBRATION, FILES, find_export, publish, shareable

Self = TypeVar("Self", bound="PretrainedModel")


class PretrainedModel(nn.Module):
    """A model that an export can hold: whole, or as the part of another model that is called like its kind."""

    KIND: ClassVar[str]
    """What an export of it is called."""
    CONFIG: ClassVar[type]
    """The class of `config`; a model is built from it alone."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_hash: str | None = None
        """sha256 of the weights file that it was loaded from."""
        self.record: dict[str, Any] = {}
        """What made it: steps, data, figures, the resolved training configuration."""
        self.calibration: Calibration | None = None
        """What its uncertainty says of its errors, where its export is calibrated."""

    @classmethod
    def from_pretrained(
        cls: type[Self],
        source: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """An exported model, in eval mode on the CPU, in fp32; the keywords are those of `whale.hub.find_export`.

        Args:
            source: a folder, or a hub id `organisation/name`.
            revision: branch, tag or commit; None takes `main`.
            cache_dir: the hub's cache; None takes the user's own.
            token: an access token; None takes the one the user logged in with, False none.
            local_files_only: never ask the hub, use what is cached.
            force_download: fetch again what is cached.

        Raises:
            UserError: no such model there, or one of another version; or its calibration is damaged or of others.
        """
        folder = find_export(
            source, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only,
            force_download=force_download,
        )  # fmt: skip
        stored = read_export(folder)
        inside = stored["kind"] != cls.KIND
        values, record = stored["model"], stored["training"]
        if inside:
            if cls.KIND not in values:
                raise UserError(f"{source} holds a {stored['kind']}, not a {cls.KIND}", "name another export")
            values, record = values[cls.KIND], record.get(cls.KIND, {})
        model = cls(build_config(cls.CONFIG, values, str(folder / "config.json")))
        model.checkpoint_hash = load_export(folder, model, f"{cls.KIND}." if inside else "")
        model.record = record
        model.calibration = None if inside else read_calibration(folder, model.checkpoint_hash)
        return model.eval()

    def save_pretrained(
        self, folder: str | Path, *, push_to_hub: bool = False, repo_id: str | None = None, **options: Any
    ) -> None:
        """Publish it as an exported folder, its weights in fp32.

        Args:
            folder: replaced if it holds an export.
            push_to_hub: publish it on the hub too.
            repo_id: under this name.
            options: of `push_to_hub`.

        Raises:
            UserError: the folder holds other files, or `repo_id` is missing; or see `push_to_hub`.
        """
        folder = Path(folder)
        if push_to_hub and repo_id is None:
            raise UserError("push_to_hub needs a repo_id", "give repo_id='organisation/name'")
        if others := sorted(path.name for path in folder.glob("*") if path.name not in (*FILES, CALIBRATION)):
            raise UserError(
                f"{folder} holds other files, as {others[0]}, which an export would replace", "name a folder of its own"
            )
        save_export(folder, self.KIND, self, self.config, self.record)
        if push_to_hub and repo_id is not None:
            self.push_to_hub(repo_id, **options)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        commit_message: str = "Upload the exported model",
        revision: str | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> str:
        """Publish it on the hub as one commit, its record without absolute paths of this machine.

        The arguments, result and errors are those of `whale.hub.publish`.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "export"
            save_export(folder, self.KIND, self, self.config, shareable(self.record))
            return publish(
                folder, repo_id, private=private, commit_message=commit_message, revision=revision, token=token,
                create_pr=create_pr,
            )  # fmt: skip

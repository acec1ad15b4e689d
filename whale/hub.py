"""The Hugging Face hub: exported models fetched into its cache, and published as one commit.

Nothing of a repository is fetched but `FILES` and `CALIBRATION`: JSON, text and safetensors, none of which can run
anything when read.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whale.errors import UserError

FILES = ("config.json", "model.safetensors", "README.md")
"""What every export holds."""
CALIBRATION = "calibration.json"
"""What an export holds besides where it is calibrated (`whale.calibration`)."""


def find_export(
    source: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder of an exported model: `source` itself where it exists, else the cached snapshot of a repository.

    Args:
        source: a folder, or a hub id `organisation/name`.
        revision: branch, tag or commit; None takes `main`.
        cache_dir: the hub's cache; None takes the user's own.
        token: an access token; None takes the one the user logged in with, False none.
        local_files_only: never ask the hub, use what is cached.
        force_download: fetch again what is cached.

    Raises:
        UserError: neither a folder nor a hub id, or the repository or revision cannot be had.
    """
    name = str(source)
    if Path(source).exists():
        return Path(source)
    if name.count("/") != 1 or not _is_valid(name):
        raise UserError(
            f"{name!r} is no folder that exists, and no hub id, which reads `organisation/name`",
            "check the path; `whale pretrain` leaves a trained model in `<run>/export`",
        )
    from huggingface_hub import snapshot_download

    with _told(name, f"there is no folder {name!r}, and "):
        snapshot = snapshot_download(
            name, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only,
            force_download=force_download, allow_patterns=[*FILES, CALIBRATION],
        )  # fmt: skip
    if not all((Path(snapshot) / file).is_file() for file in FILES[:2]):
        raise UserError(
            f"the hub's repository {name} holds no exported model ({' and '.join(FILES[:2])})",
            "name one that `push_to_hub` of this package wrote; weights in other formats are never fetched",
        )
    return Path(snapshot)


def publish(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    commit_message: str = "Upload the exported model",
    revision: str | None = None,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Commit an exported folder to the hub, all files at once; makes the repository where there is none.

    Args:
        folder: the export.
        repo_id: `organisation/name`, or `name` in the user's own space.
        private: who may see a repository that is made now; None leaves it to the organisation's default.
        commit_message: first line of the commit.
        revision: the branch to commit to, made where there is none; None takes `main`.
        token: an access token; None takes the one the user logged in with.
        create_pr: open a pull request instead of committing to the branch.

    Returns:
        Address of the commit (a `huggingface_hub.CommitInfo`, which is a string with more to it).

    Raises:
        UserError: the id is not valid, or the hub refuses.
    """
    if not _is_valid(repo_id):
        raise UserError(f"{repo_id!r} is no valid name of a repository", "write `organisation/name`")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(token=token)
    with _told(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        here = [name for name in (*FILES, CALIBRATION) if (folder / name).is_file()]
        changes: list[Any] = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in here]
        if CALIBRATION not in here and api.file_exists(repo_id, CALIBRATION, revision=revision):
            changes.append(CommitOperationDelete(CALIBRATION))  # that of the weights that are replaced
        return api.create_commit(
            repo_id, changes, commit_message=commit_message, revision=revision, create_pr=create_pr
        )  # fmt: skip


def shareable(record: dict[str, Any]) -> dict[str, Any]:
    """The record of a training without the places of this machine: of an absolute path, the last name is left.

    A path always gets the same name, and two that end alike are numbered.
    """
    names: dict[str, str] = {}

    def share(value: Any) -> Any:
        if isinstance(value, dict):
            return {share(key): share(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [share(one) for one in value]
        if not isinstance(value, str) or not Path(value).is_absolute():
            return value
        if value not in names:
            number = 1 + sum(Path(other).name == Path(value).name for other in names)
            names[value] = Path(value).name + (f"_{number}" if number > 1 else "")
        return names[value]

    return {key: share(value) for key, value in record.items()}


def _is_valid(repo_id: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        return False
    return True


@contextlib.contextmanager
def _told(repo_id: str, before: str = "") -> Iterator[None]:
    """Turn what the hub answers into errors that a user can act on; headers and tokens are in none of them."""
    from huggingface_hub import errors

    log_in = "log in with `hf auth login`, or give `token=`, as someone who may"
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"the hub's repository {repo_id} is gated: access is granted on request only",
            f"ask for it on the repository's page; then {log_in}",
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{before}the hub has no repository {repo_id!r} that you may read",
            f"check the spelling; if it is private, {log_in}",
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"the hub's repository {repo_id} has no such revision", "name a branch, a tag or a commit that it has"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        answer = type(error.__cause__).__name__ if error.__cause__ else "it was not asked"
        raise UserError(
            f"{before}the hub's repository {repo_id} is not in the cache and cannot be fetched ({answer})",
            "go online (without HF_HUB_OFFLINE and local_files_only), or fetch it where there is a network",
        ) from None
    except errors.LocalTokenNotFoundError:
        raise UserError(f"token=True is given for {repo_id}, and nobody is logged in", log_in) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        refused = status in (401, 403)
        raise UserError(
            f"the hub {'refuses access to' if refused else 'failed on'} {repo_id} (HTTP status {status})",
            log_in if refused else "try again later; the hub's own state is told at https://status.huggingface.co",
        ) from None
    except (errors.OfflineModeIsEnabled, errors.HTTPError) as error:  # the client's own: no answer at all
        raise UserError(
            f"the hub cannot be reached for {repo_id} ({type(error).__name__})",
            "try again where there is a network, without HF_HUB_OFFLINE",
        ) from None

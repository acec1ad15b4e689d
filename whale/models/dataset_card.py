"""What a model must know of one dataset to act on it: read from a folder of clips, kept in the model's config."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from whale.actions import ACTION_NAMES, ActionScale, ActionStatus
from whale.clips.reader import ClipReader
from whale.clips.stats import read_scale, read_stats
from whale.config import configclass
from whale.errors import UserError


@configclass
class DatasetCard:
    """Scales and meaning of a dataset's actions and rewards."""

    action_low: tuple[float, ...]
    """1 % quantile of each action dimension over the train split."""
    action_high: tuple[float, ...]
    """99 % quantile of each action dimension over the train split."""
    action_status: tuple[int, ...]
    """ActionStatus of each dimension."""
    action_type: str
    """ActionType of the dataset."""
    reward_mean: float
    """Mean reward of the train split, 0 where there is none."""
    reward_std: float
    """Standard deviation of the reward of the train split, 1 where it is constant or absent."""
    control_period_sec: float
    """Time between two frames."""
    robot: str = ""
    """Robot and gripper, where known."""
    licence: str = ""
    """Licence of the data, where known."""
    action_frame: str = ""
    """Axes that motion is told in: `base` or `tool`; empty in exports of before it was noted."""

    @property
    def scale(self) -> ActionScale:
        """Physical units to model units."""
        return ActionScale(self.action_low, self.action_high)

    @property
    def actions(self) -> str:
        """What its actions hold, in words (`describe_actions`)."""
        return describe_actions(self.action_type, self.action_status)


def describe_actions(action_type: str, status: Sequence[int]) -> str:
    """What the seven slots of actions hold, in words; only actions of the same words mean the same to a model."""
    parts = []
    for kind in reversed(ActionStatus):
        if names := [name for name, one in zip(ACTION_NAMES, status, strict=True) if one == kind]:
            parts.append(f"{kind.name.lower()} {' '.join(names)}")
    return f"{action_type} actions ({', '.join(parts)})"


def dataset_card(folder: Path) -> tuple[str, DatasetCard]:
    """Name and card of the dataset in a folder of clips, from its `stats.json` and its first clip."""
    name, scale = read_scale(folder)
    stats = read_stats(folder)
    rewards = stats["rewards"]
    info = ClipReader(folder, "train").read(0, with_frames=False).info
    varied = rewards is not None and rewards["std"] > 1e-8
    return name, DatasetCard(
        action_low=scale.low,
        action_high=scale.high,
        action_status=tuple(int(status) for status in info.action_status),
        action_type=info.action_type.value,
        reward_mean=rewards["mean"] if rewards is not None else 0.0,
        reward_std=rewards["std"] if varied else 1.0,
        control_period_sec=info.control_period_sec,
        robot=stats.get("robot", ""),
        licence=stats.get("licence", ""),
        action_frame=info.action_frame,
    )


def dataset_cards(folders: Iterable[Path]) -> dict[str, DatasetCard]:
    """The card of every dataset in the folders.

    Raises:
        UserError: two folders hold the same dataset with different cards; one model scales a dataset in one way. Or an
            actuated dimension never changes: a model would be told that something moves when nothing does.
    """
    cards: dict[str, DatasetCard] = {}
    for folder in folders:
        name, card = dataset_card(folder)
        _refuse_still(folder, name, card)
        if cards.setdefault(name, card) != card:
            raise UserError(
                f"two sources hold {name!r} with different statistics or action meanings (the second is {folder})",
                "convert them together, so that they share their statistics",
            )
    return cards


def _refuse_still(folder: Path, name: str, card: DatasetCard) -> None:
    actions = read_stats(folder)["actions"]
    still = [
        ACTION_NAMES[i]
        for i, status in enumerate(card.action_status)
        if status == ActionStatus.ACTUATED and actions["min"][i] == actions["max"][i]
    ]
    if still:
        raise UserError(
            f"{name!r} ({folder}) calls the action dimensions {', '.join(still)} actuated, and in its train split they "
            "never change",
            "in its spec, correct where they are read from, or leave them out with `absent: fixed`; then convert again",
        )

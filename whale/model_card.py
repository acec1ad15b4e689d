"""The model card of an export: its README.md, with the front matter by which the Hugging Face hub files it.

Everything in it is read from the model, its configuration and the record of its training; what none of them tells is
left out, or called unknown.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import yaml
from torch import nn

from whale import __version__
from whale.actions import ACTION_NAMES, ActionStatus
from whale.clips.manifest import hash_of
from whale.config import to_values

if TYPE_CHECKING:
    from whale.calibration import Calibration

USE = {
    "world_model": """from whale.models.world_model import WorldModel
from whale.rollout import Imagination

model = WorldModel.from_pretrained("folder, or organisation/name")
# frames: uint8 [B, C, H, W, 3]; actions: float32 [B, C - 1, 7], physical units; dataset: a name from below
imagination = Imagination(model, frames, actions, dataset, control_period_sec)
imagined = imagination.step(next_actions)  # float32 [B, 7] -> tokens, reward, terminated
pixels = imagination.frame()  # uint8 [B, H, W, 3]""",
    "tokenizer": """from whale.models.tokenizer import VideoTokenizer

model = VideoTokenizer.from_pretrained("folder, or organisation/name")
tokens = model.encode(frames)  # uint8 [N, H, W, 3] -> int64 [N, S]
decoded = model.decode(tokens[None])  # int64 [B, T, S] -> uint8 [B, T, H, W, 3]""",
}
HUB_LICENCES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "bsd-3-clause")
"""Those of the hub's identifiers that robot data comes under."""
FIGURES = {
    "psnr": "dB, frames decoded from their own tokens against recorded ones",
    "codebook_usage": "share of the codes that held-out frames use",
    "codebook_perplexity": "that many codes, used evenly, would have the same entropy",
    "lpips": "perceptual distance of decoded frames (AlexNet), 0 for equal ones",
    "cross_entropy": "nats a token of the next frame, from recorded frames",
    "moved_accuracy": "share foretold of the tokens that change",
    "reward_error": "squared error over the variance of the dataset's rewards",
    "termination": "nats, cross-entropy of whether the episode ends",
    "behavior_kl": "nats, what is known of the behaviour from the whole clip and not from its past",
    "action_log_prob": "nats a dimension, recorded actions by the behaviour of the whole clip",
    "action_log_prob_prior": "the same by the behaviour that its past shows",
    "action_log_prob_zero": "the same by no behaviour at all",
    "imagined_psnr": "dB, imagined frames against decoded recorded ones",
    "action_following": "dB, PSNR imagined with the true actions minus with another clip's: 0 if it ignores them",
    "action_following_se": "dB, standard error of that over clips",
}
"""What figures of a validation say, and in which unit."""
UNITS = ("m", "m", "m", "rad", "rad", "rad", "1 = open")
"""Of the canonical end-effector actions."""


def model_card(
    kind: str, model: nn.Module, config: Any, record: dict[str, Any], calibration: "Calibration | None" = None
) -> str:
    """The card of an export, in Markdown.

    Args:
        kind: `tokenizer` or `world_model`.
        model: what is exported.
        config: its configuration.
        record: what made it: `step`, `figures`, `config` and the entries of `data_record`, as far as they are known.
        calibration: what the uncertainty of a world model says of its errors, where that was fitted.
    """
    values = to_values(config)
    seen = record.get("datasets", {})
    cards = values.get("datasets") or {name: one["card"] for name, one in seen.items()}
    tokenizer = getattr(model, "tokenizer", model)
    sections = [
        _front_matter(kind, cards),
        _opening(kind, tokenizer),
        _parameters(model),
        _training(record, tokenizer),
        _data(cards, seen),
        _actions(cards) if kind == "world_model" else "",
        _figures("Figures of the last validation, on held-out clips", record.get("figures", {})),
        _groups(record.get("figures", {})),
        _figures("Figures of its tokenizer's last validation", record.get("tokenizer", {}).get("figures", {})),
        _uncertainty(calibration) if kind == "world_model" else "",
        _limitations(kind, cards),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(kind: str, cards: dict[str, Any]) -> str:
    licences = {licence_id(card.get("licence", "")) for card in cards.values()}
    known = licences.pop() if len(licences) == 1 else None
    values = {
        "library_name": "whale",
        "pipeline_tag": "robotics",
        "license": known or "other",
        **({} if known else {"license_name": "see-the-datasets-in-the-card"}),
        "tags": ["robotics", "world-model" if kind == "world_model" else "video-tokenizer", "video", "safetensors"],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def licence_id(licence: str) -> str | None:
    """The hub's identifier of a licence, or None: of `CC BY 4.0 (by its README)` it is `cc-by-4.0`."""
    name = re.sub(r"\(.*?\)", "", licence).strip().lower().replace(" ", "-")
    return name if name in HUB_LICENCES else None


def _opening(kind: str, tokenizer: nn.Module) -> str:
    size: Any = tokenizer.config
    frame = f"{size.image_px} x {size.image_px} px"
    tokens = f"{size.tokens_per_frame} tokens out of {size.quantizer.num_codes} codes"
    if kind == "world_model":
        title = "World model for robots"
        text = (
            "From recorded frames and the robot's actions it imagines what comes next, frame by frame: images of "
            f"{frame} (each {tokens}), the reward, and whether the episode ends. The video tokenizer is inside."
        )
    else:
        title = "Video tokenizer for robots"
        text = f"It turns a frame of {frame} into {tokens}, and tokens back into frames."
    more = "`config.json` holds the model's configuration and the whole record of its training."
    return f"# {title}\n\n{text}\n\n```python\n{USE[kind]}\n```\n\n{more}"


def _parameters(model: nn.Module) -> str:
    """Parameters by part; a codebook that is stored was learned, and counts as one of them."""
    counts = {}
    for name, part in model.named_children():
        books = [value for key, value in part.state_dict().items() if key.endswith("codebook_VC")]
        counts[name] = sum(value.numel() for value in [*part.parameters(), *books])
    own = sum(p.numel() for p in model.parameters(recurse=False))
    total = sum(counts.values()) + own
    rows = [(name, f"{count:,}") for name, count in counts.items() if count]
    rows += [("(its own)", f"{own:,}")] * bool(own) + [("**all**", f"**{total:,}**")]
    return "## Parameters\n\n" + _table(("part", "parameters"), rows)


def _training(record: dict[str, Any], tokenizer: nn.Module) -> str:
    rows: list[tuple[str, Any]] = []
    if "step" in record:
        rows += [("updates", f"{record['step']:,}")]
    if "step" in record and "batch" in record:
        frames = record["step"] * record["batch"] * record["frames"]
        size: Any = tokenizer.config
        rows += [
            ("batch", f"{record['batch']} clips of up to {record['frames']} frames"),
            ("frames seen, at most", f"{frames:,}"),
            ("tokens seen, at most", f"{frames * size.tokens_per_frame:,}"),
        ]
    if decay := record.get("config", {}).get("optim", {}).get("ema_decay"):
        rows += [("weights", f"averaged over the updates, decay {decay:g}")]
    if source := record.get("adapted_from"):
        rows += [("adapted from weights of sha256", f"`{source}`")]
    rows += [("fingerprint of the tokenizer", f"`{tokenizer.fingerprint}`")]
    if "config" in record:
        rows += [("hash of the training configuration", f"`{hash_of(record['config'])[:16]}`")]
    return "## Training\n\n" + _table(("", ""), [*rows, ("version of whale", __version__)])


def _data(cards: dict[str, Any], seen: dict[str, Any]) -> str:
    if not cards:
        return "## Data\n\nUnknown: the record of this model names no dataset."
    rows = []
    for name, card in sorted(cards.items()):
        size = seen.get(name, {})
        counts = [f"{size[key]:,}" if key in size else "unknown" for key in ("clips", "frames")]
        words = [card.get(key) or "unknown" for key in ("robot", "action_type", "licence")]
        rows.append((name, *counts, f"{card['control_period_sec']:g} s", *words))
    head = ("dataset", "clips", "frames", "control period", "robot", "action type", "licence")
    return (
        "## Data\n\n" + _table(head, rows) + "\n\nClips and frames are those of the train split. Licences are as the "
        "clips tell them; check them with the makers of each dataset before you pass the weights on."
    )


def _actions(cards: dict[str, Any]) -> str:
    """Each dataset's scale: actions are given in physical units, and scaled by it inside."""
    rows = []
    for name, card in sorted(cards.items()):
        canonical = card["action_type"] == "eef_delta"
        for i, (low, high, status) in enumerate(
            zip(card["action_low"], card["action_high"], card["action_status"], strict=True)
        ):
            axis, unit = (ACTION_NAMES[i], UNITS[i]) if canonical else (f"slot {i}", "its own")
            rows.append((name, axis, unit, ActionStatus(status).name.lower(), f"{low:.5g}", f"{high:.5g}"))
    return "## Actions\n\nThe 1 % and 99 % quantiles of the train split, by which actions are scaled.\n\n" + _table(
        ("dataset", "dimension", "unit", "status", "1 %", "99 %"), rows
    )


def _figures(title: str, figures: dict[str, float | None]) -> str:
    shown = [(name, _number(value), FIGURES.get(name, "")) for name, value in figures.items() if "/" not in name]
    return f"## {title}\n\n" + _table(("figure", "value", "meaning"), shown) if shown else ""


def _groups(figures: dict[str, float | None]) -> str:
    """Figures called `dataset/<name>/<figure>` and `robot/<name>/<figure>`, where there are several of each."""
    tables = []
    for kind in ("dataset", "robot"):
        values: dict[str, dict[str, float | None]] = {}
        for name, value in figures.items():
            if name.startswith(f"{kind}/"):
                group, _, figure = name.removeprefix(f"{kind}/").rpartition("/")
                values.setdefault(group, {})[figure] = value
        names = list(dict.fromkeys(figure for one in values.values() for figure in one))
        rows = [
            (group, *(_number(one[name]) if name in one else "" for name in names)) for group, one in values.items()
        ]
        tables += [_table((kind, *names), rows)] * (len(rows) > 1)
    return "\n\n".join(tables)


def _number(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.5g}"


def _uncertainty(calibration: "Calibration | None") -> str:
    if calibration is None:
        text = "Not calibrated: it can say how far its own predictions disagree, and not how large an error that means."
    else:
        text = (
            "Calibrated: the uncertainty that accumulates along a rollout (retracing at steps "
            f"{', '.join(map(str, calibration.retracing.steps))}) is mapped to an expected error in grey levels, as "
            f"fitted on {calibration.episodes} held-out episodes of {calibration.dataset}, to {calibration.horizon} "
            "imagined frames, and says nothing of other data. Errors that all predictions share are not seen."
        )
    return f"## Uncertainty\n\n{text}"


def _limitations(kind: str, cards: dict[str, Any]) -> str:
    text = (
        "It knows the robots, cameras, lights and objects of the datasets above and was tested on held-out clips of "
        "the same datasets only; for anything else, adapt it and measure it first. Detail smaller than a patch is lost."
    )
    if kind == "world_model":
        silent = [name for name, card in sorted(cards.items()) if card["reward_std"] == 1 and card["reward_mean"] == 0]
        text += (
            " Imagined frames drift from what would happen, the more the longer it imagines, above all after actions "
            "unlike those in its data, and a plausible image is no evidence that the robot would do so. Judge policies "
            "by it only after its values were held against true ones, and put nothing that was decided in imagination "
            "on a robot without safety limits of its own."
        )
        if silent:
            text += f" It learned no rewards from {', '.join(silent)}: what it says of them there means nothing."
    return f"## Limitations\n\n{text}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

"""A TFDS dataset folder: what `dataset_info.json` says of its files, and whether they are there."""

from typing import Any

from whale.data_prep.files import LFS_MAGIC, join, list_folder, open_file, read_json
from whale.data_prep.source import InputShard
from whale.errors import UserError

TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
MAX_POINTER_BYTES = 1024
"""A Git-LFS pointer is never longer."""


def read_description(folder: str) -> tuple[str, dict[str, Any], tuple[InputShard, ...]]:
    """Name of the RLDS dataset in a TFDS version folder, its features (as in `features.json`), its TFRecord files.

    Raises:
        UserError: the folder is no TFDS dataset or not RLDS, or a file is missing or a Git-LFS pointer.
    """
    inside = list_folder(folder)
    if "features.json" not in inside or "dataset_info.json" not in inside:
        below = [join(folder, one) for one, size in inside.items() if size is None]
        below = [one for one in below if "features.json" in list_folder(one)][:3]
        remedy = f"name the version folder, such as {below[0]}" if below else (
            "convert the data to RLDS with tensorflow-datasets first; a bare TFRecord does not say what it holds")
        problem = f"{folder} is no TFDS dataset folder: it has no features.json and dataset_info.json"
        raise UserError(f"{problem}; nor is it LeRobot (meta/info.json) or videos with actions (*.mp4)", remedy)
    info = read_json(join(folder, "dataset_info.json"))
    description = read_json(join(folder, "features.json"))
    try:
        features = description.get("featuresDict", {}).get("features", {})
        if "featuresDict" not in features.get("steps", {}).get("sequence", {}).get("feature", {}):
            raise UserError(
                f"{folder} is a flat dataset, not RLDS: no `steps` among its features ({', '.join(sorted(features))})",
                "group its records into episodes first; RLDS has one episode a record, with a dataset of `steps`",
            )
        return info["name"], description, _shards(folder, info, inside)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = f"the description of {folder} cannot be understood: {error!r}"
        raise UserError(problem, "fetch dataset_info.json and features.json again") from None


def _shards(folder: str, info: dict[str, Any], inside: dict[str, int | None]) -> tuple[InputShard, ...]:
    if info.get("fileFormat", "tfrecord") != "tfrecord":
        raise UserError(f"{folder} holds {info['fileFormat']} files", "write it again with `file_format=tfrecord`")
    shards: list[InputShard] = []
    for split in sorted(info.get("splits", []), key=lambda split: (split["name"] != "train", split["name"])):
        first, counts = 0, [int(count) for count in split.get("shardLengths", [])]
        for number, count in enumerate(counts):
            template = split.get("filepathTemplate") or TEMPLATE
            name = _file_name(template, info["name"], split["name"], number, len(counts))
            path, size = join(folder, name), inside.get(name)
            if size is None:
                raise UserError(f"the input shard {path} is missing", "fetch the dataset again")
            if size <= MAX_POINTER_BYTES:
                _refuse_pointer(path)
            shards.append(InputShard(len(shards), path, split["name"], first, count, size))
            first += count
    if not shards:
        raise UserError(f"{folder}/dataset_info.json names no files", "write the dataset again, with `shardLengths`")
    return tuple(shards)


def _file_name(template: str, dataset: str, split: str, number: int, count: int) -> str:
    digits = max(5, len(str(count)))
    index, total = f"{number:0{digits}d}", f"{count:0{digits}d}"
    words = {"DATASET": dataset, "SPLIT": split, "FILEFORMAT": "tfrecord", "SHARD_INDEX": index, "NUM_SHARDS": total,
             "SHARD_X_OF_Y": f"{index}-of-{total}"}
    for word, value in words.items():
        template = template.replace(f"{{{word}}}", value)
    return template


def _refuse_pointer(path: str) -> None:
    with open_file(path) as file:
        if file.read(len(LFS_MAGIC)) == LFS_MAGIC:
            raise UserError(f"{path} is a Git-LFS pointer, not the data", "run `git lfs pull` where it came from")

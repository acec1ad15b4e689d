import io
import json
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rlds_files import film

from whale.data_prep.duplicates import MAX_BITS, ROW, find_duplicates, known_rows, row_of
from whale.data_prep.episode import numbers_of
from whale.data_prep.oxe.registry import spec_of
from whale.data_prep.resample import Numbers
from whale.data_prep.source import open_source
from whale.errors import UserError


def moving(seed: int, length: int = 12) -> Numbers:
    steps = np.arange(length)
    actions = np.random.default_rng(seed).normal(0, 0.02, (length, 7)).astype(np.float32)
    return Numbers(actions, steps < length - 1, None, None, steps == 0, steps == length - 1, steps < 0)


def again(images: list[bytes], size_px: int, **options) -> list[bytes]:
    """The same pictures, decoded, resized and encoded anew."""
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(image)) as opened:
            opened.convert("RGB").resize((size_px, size_px), Image.Resampling.BICUBIC).save(buffer, **options)
        encoded.append(buffer.getvalue())
    return encoded


def rows_of(*episodes: tuple[Numbers, list[bytes]]) -> np.ndarray:
    rows = [row_of(0, i, 0, numbers, images, False) for i, (numbers, images) in enumerate(episodes)]
    return np.array(rows, ROW)


def bits(a: np.void, b: np.void) -> int:
    return sum(int(x).bit_count() for x in a["look"] ^ b["look"])


@pytest.mark.parametrize("options", [
    {"size_px": 256, "format": "JPEG", "quality": 60}, {"size_px": 128, "format": "JPEG", "quality": 90},
    {"size_px": 64, "format": "PNG"}, {"size_px": 224, "format": "WEBP", "quality": 50},
], ids=str)  # fmt: skip
def test_a_copy_encoded_anew_is_found_and_another_scene_or_motion_is_none(options):
    for seed in range(5):
        films = [film(np.random.default_rng([seed, one]), 12, 256) for one in range(2)]
        numbers = moving(seed)
        rows = rows_of((numbers, films[0]), (numbers, films[1]), (moving(seed + 50), films[0]),
                       (numbers, again(films[0], **options)))
        assert find_duplicates(rows) == {3: 0}
        assert bits(rows[0], rows[3]) <= MAX_BITS / 2 and bits(rows[0], rows[1]) >= 2 * MAX_BITS


def test_the_same_bytes_are_found_even_where_nothing_moves_and_only_there():
    still = moving(0)
    still.actions[:] = 0
    images = film(np.random.default_rng(0), 12, 64)
    assert find_duplicates(rows_of((still, images), (still, list(images)))) == {1: 0}
    assert find_duplicates(rows_of((still, images), (still, again(images, 64, format="PNG")))) == {}


def test_a_chain_of_copies_leads_to_the_first_and_what_is_of_no_use_repeats_nothing():
    images = film(np.random.default_rng(0), 12, 128)
    other = again(images, 96, format="PNG")
    rows = rows_of((moving(1), images), (moving(1), other), (moving(1), other), (moving(2), images))
    assert find_duplicates(rows) == {1: 0, 2: 0}
    rows["num_steps"][0] = 0
    assert find_duplicates(rows) == {2: 1}


def test_episodes_of_one_scene_are_not_taken_for_one_another(rlds, bridge):
    for address, camera in ((rlds, "image"), (bridge, "image_0")):
        source = open_source(str(address))
        spec = spec_of(source.dataset)
        found = [one for shard in source.shards if shard.split == "train" for one in source.read(shard, [camera])]
        rows = rows_of(*((numbers_of(one, spec, camera), one.steps["observation"][camera]) for one in found))
        assert len(rows) >= 24 and find_duplicates(rows) == {}
        pairs = list(combinations(rows, 2))
        assert sum(bits(a, b) <= MAX_BITS for a, b in pairs) < 0.02 * len(pairs)  # few look alike, whatever they do


def test_a_folder_that_does_not_say_what_it_holds(tmp_path):
    with pytest.raises(UserError, match="does not say which episodes it holds"):
        known_rows([Path(tmp_path)])


def test_many_that_move_alike_and_many_that_were_left_out_take_little_time(tmp_path):
    dice = np.random.default_rng(0)
    rows = np.zeros(4000, ROW)
    rows["num_steps"], rows["motion"], rows["content"] = 9, 1, np.arange(1, len(rows) + 1)
    rows["look"] = dice.integers(0, 2**64, (len(rows), 3), np.uint64)
    rows["look"][-1] = rows["look"][7] ^ np.uint64(5)
    start = time.process_time()
    assert find_duplicates(rows) == {len(rows) - 1: 7}
    rows = np.zeros(100_000, ROW)
    rows["num_steps"], rows["unit"], rows["record"] = 9, np.arange(len(rows)) // 100, np.arange(len(rows)) % 100
    np.save(tmp_path / "episodes.npy", rows)
    gone = [{"unit": unit, "record": first, "num_records": 25} for unit in range(1000) for first in (0, 70)]
    gone += [{"unit": unit, "record": record, "num_records": 1} for unit in range(1000) for record in range(30, 70)]
    (tmp_path / "quarantine.json").write_text(json.dumps({"episodes": gone}))
    with pytest.raises(UserError, match="it is being written again"):
        known_rows([tmp_path])
    (tmp_path / "manifest.json").touch()
    (_, held), = known_rows([tmp_path])
    assert np.array_equal(held, rows[(rows["record"] >= 25) & (rows["record"] < 30) | (rows["record"] >= 95)])
    assert time.process_time() - start < 5  # seconds: with a look at every pair it were a minute

import hashlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from launch import free_port

from whale.clips.manifest import read_manifest
from whale.clips.reader import ClipReader
from whale.clips.stats import read_scale
from whale.data_prep.config import VerifyConfig
from whale.data_prep.tokenize import TokenizeConfig, tokenize_folder
from whale.data_prep.verify import verify
from whale.errors import UserError


class PatchMean(torch.nn.Module):
    """A tokenizer with something of each frame in its codes: the mean brightness of each quarter."""

    fingerprint = "patch-mean"
    num_codes = 256

    def encode(self, frames):
        small = torch.nn.functional.adaptive_avg_pool2d(frames.permute(0, 3, 1, 2).float().mean(1, keepdim=True), 2)
        return small.flatten(1).long()


def bytes_of(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


class PlaceInBatch(PatchMean):
    """A tokenizer that is no pure function of the frame: where it stands in a batch, and beside what, counts too."""

    fingerprint = "place-in-batch"

    def __init__(self):
        super().__init__()
        self.sizes = []

    def encode(self, frames):
        self.sizes.append(len(frames))
        beside = int(frames.long().sum()) % 50
        return (super().encode(frames) + torch.arange(len(frames))[:, None] + beside) % 256


def run(clips, tokenizer, out, batch_frames=30, rank=0, ranks=1, **settings):
    config = TokenizeConfig(clips=clips, tokenizer=clips, out=out, batch_frames=batch_frames, **settings)
    tokenize_folder(config, tokenizer, "cpu", rank, ranks)


@pytest.fixture
def tokens(clips, tmp_path):
    run(clips, PatchMean(), tmp_path / "tokens")
    return tmp_path / "tokens"


def test_token_clips_are_the_pixel_clips_in_the_same_order(clips, tokens):
    manifest = read_manifest(tokens)
    assert (manifest.kind, manifest.tokenizer) == ("tokens", "patch-mean")
    assert [s.name for s in manifest.shards] == [s.name for s in read_manifest(clips).shards]
    assert read_scale(tokens) == read_scale(clips)
    for split in ("train", "val"):
        pixels, coded = ClipReader(clips, split), ClipReader(tokens, split)
        assert len(pixels) == len(coded)
        for k in range(len(pixels)):
            a, b = pixels.read(k), coded.read(k)
            assert pixels.key(k) == coded.key(k) and a.info.episode == b.info.episode
            assert b.info.tokenizer == "patch-mean"
            assert np.array_equal(b.tokens, PatchMean().encode(torch.from_numpy(a.frames)).numpy())
            assert np.array_equal(a.actions, b.actions) and np.array_equal(a.rewards, b.rewards)


def test_a_restart_gives_the_same_bytes(clips, tokens):
    before = bytes_of(tokens)
    (tokens / "manifest.json").unlink()
    (tokens / "records/00001.json").unlink()
    run(clips, PatchMean(), tokens)
    assert bytes_of(tokens) == before


@pytest.mark.parametrize(("batch_frames", "workers"), [(1, 1), (7, 3), (12, 2), (500, 5)])
def test_tokens_do_not_depend_on_batches_and_threads(clips, tokens, tmp_path, batch_frames, workers):
    run(clips, PatchMean(), tmp_path / "other", batch_frames, workers=workers)
    assert {k: v for k, v in bytes_of(tmp_path / "other").items() if not k.endswith("json")} == {
        k: v for k, v in bytes_of(tokens).items() if not k.endswith("json")}


def test_batches_have_one_size_and_are_a_function_of_the_shard_alone(clips, tmp_path):
    whole, parts = PlaceInBatch(), PlaceInBatch()
    run(clips, whole, tmp_path / "whole")
    for order in itertools.permutations(range(3)):
        out = tmp_path / "".join(map(str, order))
        for task in order:
            assert not (out / "manifest.json").exists()
            run(clips, parts, out, tasks=3, task=task)
        assert bytes_of(out) == bytes_of(tmp_path / "whole")
    assert set(whole.sizes) | set(parts.sizes) == {30}


def test_a_damaged_clip_is_named_and_the_other_shards_stay_done(clips, tmp_path):
    spoilt = shutil.copytree(clips, tmp_path / "spoilt")
    reader = ClipReader(clips, "train")
    shard, k = reader.shards[1].name, reader.of_shard(1)[2]
    raw = bytearray((spoilt / shard).read_bytes())
    raw[int(reader.index["offset"][k]) + 3000] ^= 1
    (spoilt / shard).write_bytes(raw)
    out = tmp_path / "out"
    with pytest.raises(UserError, match=rf"clip {reader.key(k):011d} in {spoilt / shard} at byte \d+ is damaged"):
        run(spoilt, PatchMean(), out)
    done = sorted(path.name for path in out.glob("records/*"))
    assert done and not list(out.glob(".tmp-*")) and not (out / "manifest.json").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("records/*")}
    shutil.copyfile(clips / shard, spoilt / shard)
    run(spoilt, PatchMean(), out)
    assert {path: path.stat().st_mtime_ns for path in before} == before and (out / "manifest.json").exists()


def test_what_cannot_be_tokenized_is_refused(clips, tokens, tmp_path):
    with pytest.raises(UserError, match="holds tokens of tokenizer patch-mean"):
        run(tokens, PatchMean(), tmp_path / "twice")
    large = PatchMean()
    large.num_codes = 70_000
    with pytest.raises(UserError, match="70000 codes"):
        run(clips, large, tmp_path / "large")
    assert not (tmp_path / "twice").exists() and not (tmp_path / "large").exists()


def test_an_exported_tokenizer_is_loaded_by_the_command(clips, tmp_path, capsys):
    from whale.cli import main
    from whale.export import save_export
    from whale.models.tokenizer import TokenizerConfig, VideoTokenizer

    def command(name, **sizes):
        torch.manual_seed(0)
        config = TokenizerConfig(width=16, heads=2, decoder_depth=1, **sizes)
        tokenizer = VideoTokenizer(config)
        save_export(tmp_path / name, "tokenizer", tokenizer, config, {})
        file = tmp_path / f"{name}.yaml"
        file.write_text(f"clips: {clips}\ntokenizer: {tmp_path / name}\nout: {tmp_path / name / 'tokens'}\n")
        return tokenizer, main(["data_prep", "tokenize", str(file)])

    tokenizer, code = command("fitting")
    assert code == 0
    pixels, coded = (ClipReader(f, "val") for f in (clips, tmp_path / "fitting/tokens"))
    assert coded.manifest.tokenizer == tokenizer.fingerprint
    for k in range(len(coded)):
        alone = tokenizer.encode(torch.from_numpy(pixels.read(k).frames)).numpy()
        assert np.array_equal(coded.read(k).tokens, alone)
    assert command("small", image_px=32)[1] == 2
    assert "this tokenizer takes 32 px" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "small/tokens").glob("*") if path.is_file()]


def test_verify_names_the_damage(tokens, capsys):
    verify(VerifyConfig(clips=tokens))
    assert "all as written" in capsys.readouterr().out
    reader = ClipReader(tokens, "train")
    shard = tokens / reader.shards[0].name
    raw = bytearray(shard.read_bytes())
    offset = int(reader.index["offset"][1])
    raw[offset + 600] ^= 4  # inside the JSON member, or its header
    shard.write_bytes(raw)
    with pytest.raises(UserError, match=shard.name):
        verify(VerifyConfig(clips=tokens))
    raw[offset + 600] ^= 4
    raw[offset + 10] ^= 4  # the key
    shard.write_bytes(raw)
    with pytest.raises(UserError, match=rf"{shard.name}: clip \d{{11}} at byte {offset}"):
        verify(VerifyConfig(clips=tokens))


@pytest.mark.parametrize("module", ["whale.data_prep.run", "whale.pretrain.run", "whale.clips.loader"])
def test_tensorflow_is_not_loaded(module):
    code = f"import sys, {module}; sys.exit('tensorflow' in sys.modules or 'webdataset' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tokenizing_and_verifying_load_no_tensorflow(clips, tmp_path):
    code = (
        "import sys, pathlib, torch; from whale.data_prep import tokenize, verify, config\n"
        "class T:\n fingerprint, num_codes = 'f', 2\n encode = staticmethod(lambda x: torch.zeros(len(x), 3).long())\n"
        f"out = pathlib.Path({str(tmp_path / 't')!r})\n"
        f"settings = tokenize.TokenizeConfig(clips=pathlib.Path({str(clips)!r}), tokenizer=out, out=out)\n"
        "tokenize.tokenize_folder(settings, T(), 'cpu')\n"
        "verify.verify(config.VerifyConfig(clips=out))\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    from whale.export import save_export
    from whale.models.tokenizer import TokenizerConfig, VideoTokenizer

    torch.manual_seed(0)
    config = TokenizerConfig(width=16, heads=2, decoder_depth=1)
    folder = tmp_path_factory.mktemp("exported")
    save_export(folder, "tokenizer", VideoTokenizer(config), config, {})
    return folder


def start_ranks(clips, exported, out):
    met = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    words = [f"clips={clips}", f"tokenizer={exported}", f"out={out}", "workers=1", "batch_frames=30"]
    return [
        subprocess.Popen([sys.executable, "-m", "whale", "data_prep", "tokenize", *words], text=True,
                         env=os.environ | met | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]


def test_two_ranks_are_stopped_and_go_on_and_give_the_bytes_of_one(clips, exported, tmp_path):
    from whale.cli import main

    words = [f"clips={clips}", f"tokenizer={exported}", "batch_frames=30"]
    assert main(["data_prep", "tokenize", *words, f"out={tmp_path / 'one'}"]) == 0
    ranks = start_ranks(clips, exported, tmp_path / "two")
    while not any(tmp_path.glob("two/records/0*")):
        assert None in [rank.poll() for rank in ranks]
        time.sleep(0.002)
    for rank in ranks:
        rank.terminate()
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert {rank.returncode for rank in ranks} <= {-signal.SIGTERM, 0}, said  # at once, or just done
    ranks = start_ranks(clips, exported, tmp_path / "two")
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert bytes_of(tmp_path / "two") == bytes_of(tmp_path / "one")
    count = sum(shard.num_frames for shard in read_manifest(clips).shards)
    shown = [int(re.findall(r"tokenize: (\d+)/\d+ frames", text)[-1]) for text in said]
    assert sum(shown) == count and min(shown) > 0


def test_a_rank_that_fails_ends_the_other_with_its_name(clips, exported, tmp_path):
    spoilt = shutil.copytree(clips, tmp_path / "spoilt")
    shard = read_manifest(clips).shards[1].name  # of rank 1
    raw = bytearray((spoilt / shard).read_bytes())
    raw[3000] ^= 1
    (spoilt / shard).write_bytes(raw)
    ranks = start_ranks(spoilt, exported, tmp_path / "out")
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [3, 2], said
    assert "is damaged" in said[1] and "rank 1" in said[0] and "has failed" in said[0]
    assert len(list((tmp_path / "out/records").glob("*.json"))) >= 3  # rank 0 did all of its own

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from whale.clips.manifest import read_manifest
from whale.clips.reader import ClipReader
from whale.clips.stats import read_scale
from whale.data_prep.config import VerifyConfig
from whale.data_prep.tokenize import tokenize_folder
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


@pytest.fixture
def tokens(clips, tmp_path):
    tokenize_folder(clips, PatchMean(), tmp_path / "tokens", batch_frames=30)
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
    tokenize_folder(clips, PatchMean(), tokens, batch_frames=30)
    assert bytes_of(tokens) == before


def test_what_cannot_be_tokenized_is_refused(clips, tokens, tmp_path):
    with pytest.raises(UserError, match="holds tokens of tokenizer patch-mean"):
        tokenize_folder(tokens, PatchMean(), tmp_path / "twice", batch_frames=30)
    large = PatchMean()
    large.num_codes = 70_000
    with pytest.raises(UserError, match="70000 codes"):
        tokenize_folder(clips, large, tmp_path / "large", batch_frames=30)
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
        f"tokenize.tokenize_folder(pathlib.Path({str(clips)!r}), T(), out, 99)\n"
        "verify.verify(config.VerifyConfig(clips=out))\n"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whale.models.fsq import FSQConfig
from whale.models.quantizer import VQConfig
from whale.models.tokenizer import TokenizerConfig, VideoTokenizer

CONFIG = TokenizerConfig(
    image_px=16, patch_px=4, quantizer=VQConfig(num_codes=32, dim=12), width=16, heads=2, decoder_frames=3
)


FSQ = replace(CONFIG, quantizer=FSQConfig(levels=(4, 3, 3)))


def make(seed=0, config=CONFIG):
    torch.manual_seed(seed)
    tokenizer = VideoTokenizer(config)
    for parameter in tokenizer.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape)
    return tokenizer.eval()


def frames(*shape, seed=0):
    return torch.randint(256, (*shape, 16, 16, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_patches_round_trip_exactly(seed):
    tokenizer, x = make(), frames(2, seed=seed)
    patches = tokenizer.patchify(x)
    assert patches.shape == (2, 16, 48) and patches.min() >= -1 and patches.max() <= 1
    assert torch.equal(tokenizer.unpatchify(patches).round().to(torch.uint8), x)


def test_token_is_a_function_of_its_patch_alone():
    changed_tokens = set()
    for seed in range(5):
        tokenizer, x = make(seed), frames(1, seed=seed)
        changed = x.clone()
        changed[0, :4, 4:8] = 255 - changed[0, :4, 4:8]  # the second patch of the first row
        before, after = tokenizer.encode(x), tokenizer.encode(changed)
        changed_tokens.update((before != after).nonzero()[:, 1].tolist())
        assert torch.equal(tokenizer.encode(torch.cat([x, changed])), torch.cat([before, after]))
    assert changed_tokens == {1}


@pytest.mark.parametrize("reach", [0, 1, 2])
@pytest.mark.parametrize("config", [CONFIG, FSQ], ids=["vq", "fsq"])
def test_a_code_depends_on_the_patches_in_its_reach_alone(config, reach):
    tokenizer, x = make(config=replace(config, encoder_width=16, encoder_reach=reach)).double(), frames(1)
    changed = x.clone()
    changed[0, :4, 4:8] = 255 - changed[0, :4, 4:8]  # the second patch of the first row
    before, after = (tokenizer.encode_patches(tokenizer.patchify(image)) for image in (x, changed))
    differs = ((before - after).abs().amax(-1) > 1e-12).view(4, 4).nonzero().tolist()
    assert differs == [[i, j] for i in range(4) for j in range(4) if i <= reach and abs(j - 1) <= reach]


def test_a_reach_needs_layers_to_look_with():
    with pytest.raises(ValueError, match="needs an encoder_width"):
        replace(CONFIG, encoder_reach=1)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("config", [CONFIG, FSQ], ids=["vq", "fsq"])
def test_frames_decoded_in_a_stream_or_alone_equal_the_whole_clip(config, depth):
    """Entering one by one, or from a window at any time; the two clips begin at times of their own."""
    tokenizer = make(config=replace(config, decoder_depth=depth)).double()
    tokens = torch.randint(32, (2, 9, 16), generator=torch.Generator().manual_seed(0))
    starts = torch.tensor([0, 2])
    whole = [tokenizer.decode(tokens[i : i + 1, start:])[0] for i, start in enumerate(starts)]
    stream = tokenizer.decoder.new_cache(2)
    for t in range(2, 9):
        seen = torch.arange(t - 2, t + 1) - starts[:, None]
        if t != 5:  # after one that was left out, the last frames enter together
            sight = stream.window(seen) if t in (2, 6) else stream.enter(seen[:, -1:])
            last = tokens[:, t - 2 : t + 1] if t in (2, 6) else tokens[:, t : t + 1]
            found = tokenizer.decode_last(last, sight)
            alone = tokenizer.decode_last(tokens[:, t - 2 : t + 1], tokenizer.decoder.new_cache(2).window(seen))
            for i, start in enumerate(starts):
                assert torch.equal(found[i], whole[i][t - start]) and torch.equal(alone[i], whole[i][t - start])


def test_any_frame_needs_its_last_token_frames_only():
    tokenizer = make().double()
    tokens = torch.randint(32, (1, 8, 16))
    codes = tokenizer.quantizer.codebook_VC[tokens]
    whole = tokenizer.decode_codes(codes)[:, 6]
    # Positions are relative, so the window may start anywhere.
    torch.testing.assert_close(tokenizer.decode_codes(codes[:, 4:7])[:, -1], whole)
    assert not torch.allclose(tokenizer.decode_codes(codes[:, 5:7])[:, -1], whole, atol=1e-3)


def test_initialise_reconstructs_few_distinct_patches_exactly():
    generator = torch.Generator().manual_seed(0)
    tiles = torch.randint(256, (20, 4, 4, 3), generator=generator, dtype=torch.uint8)
    choice = torch.randint(20, (30, 4, 4), generator=generator)
    x = tiles[choice].transpose(2, 3).flatten(3, 4).flatten(1, 2)
    torch.manual_seed(0)
    wide = TokenizerConfig(
        image_px=16, patch_px=4, quantizer=VQConfig(num_codes=32, dim=24), width=16, heads=2, decoder_frames=3
    )
    tokenizer = VideoTokenizer(wide)
    tokenizer.initialise(x, torch.ones(30, 16), generator)
    tokens = tokenizer.encode(x)
    error = tokenizer.decode(tokens[:, None])[:, 0].float() - x.float()
    assert error.abs().max() < 3
    assert len(torch.unique(tokens)) == 20


def test_fingerprint_names_the_token_language():
    tokenizer = make()
    before = tokenizer.fingerprint
    with torch.no_grad():
        tokenizer.code_to_patch.weight += 1  # the decoder does not change tokens
    assert tokenizer.fingerprint == before == make().fingerprint
    with torch.no_grad():
        tokenizer.quantizer.codebook_VC[3] += 1
    assert tokenizer.fingerprint != before


def test_frames_of_another_size_are_refused():
    with pytest.raises(ValueError, match="16 px"):
        make().encode(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="not a multiple"):
        TokenizerConfig(image_px=20, patch_px=8)

import functools
from dataclasses import replace

import numpy as np
import pytest

from whale.clips.clip import ActionType
from whale.clips.reader import ClipReader
from whale.errors import UserError
from whale.eval import fidelity
from whale.eval.config import FidelityConfig
from whale.eval.episodes import read_episodes
from whale.eval.media import GAP_PX, chosen_episodes, side_by_side, strip
from whale.metrics.frames import PSNR_CAP_DB, psnr

NUM = 12


def make_config(**changes):
    return FidelityConfig(**({"out": "out", "model": "model", "clips": "clips", "horizons": (1, 2, 4, 8)} | changes))


@pytest.fixture(scope="module")
def world(fakes, tmp_path_factory):
    """A perfect model, one whose tokenizer loses colour, one whose dynamics drift, and twelve episodes they know."""
    models = {
        "perfect": fakes.Simulator(),
        "lossy": fakes.Simulator(levels=24),
        "drifting": fakes.Simulator(drift=0.03),
    }
    folder = fakes.write_clips(tmp_path_factory.mktemp("clips"), fakes.record(NUM, 14, "val", models.values()))
    return models, ClipReader(folder, "val")


def episodes_of(reader, limit=None):
    return read_episodes(reader, 12, 5, limit, seed=0)


def scores_of(world, fakes, name, episodes=None, **changes):
    models, reader = world
    model = models[name]

    def imagine(**inputs):
        return fakes.Imagination(model, **inputs)

    return fidelity.measure(model, imagine, episodes or episodes_of(reader), make_config(**changes))


def test_a_perfect_model_reaches_the_ceiling_and_the_cap(world, fakes):
    scores = scores_of(world, fakes, "perfect")
    for name in ("model", "ceiling"):
        assert (scores.psnr[name] == PSNR_CAP_DB).all()
        np.testing.assert_allclose(scores.ssim[name], 1.0)
    assert (scores.token_accuracy["model"] == 1).all()
    assert (scores.psnr["copy"][:, -1] < 40).any()
    assert scores.psnr["shuffled"][:, -1].mean() < PSNR_CAP_DB - 5


def test_a_lossy_tokenizer_lowers_model_and_ceiling_alike(world, fakes):
    scores = scores_of(world, fakes, "lossy")
    np.testing.assert_array_equal(scores.psnr["model"], scores.psnr["ceiling"])
    assert scores.psnr["model"].max() < 40
    by_name = {figure.name: figure for figure in fidelity.figures(scores, make_config())}
    assert by_name["psnr_below_ceiling_h8"].value == 0
    assert by_name["token_flip_rate"].value == 0
    assert by_name["token_accuracy_h8"].value == 1


def test_figures_are_the_means_of_paired_differences(world, fakes):
    scores = scores_of(world, fakes, "drifting")
    by_name = {figure.name: figure for figure in fidelity.figures(scores, make_config())}
    at_8 = {name: values[:, 3] for name, values in scores.psnr.items()}
    gain, below = by_name["psnr_gain_over_copy_h8"], by_name["psnr_below_ceiling_h8"]
    assert gain.value == pytest.approx((at_8["model"] - at_8["copy"]).mean())
    assert below.value == pytest.approx((at_8["ceiling"] - at_8["model"]).mean())
    assert by_name["action_following_psnr"].value == pytest.approx((at_8["model"] - at_8["shuffled"]).mean())
    for figure in by_name.values():
        assert figure.low <= figure.value <= figure.high
        assert figure.n == NUM
    assert {f"{metric}_h{h}" for metric in ("psnr", "ssim") for h in (1, 2, 4, 8)} <= set(by_name)


def test_copy_is_the_last_context_frame_in_pixels_and_the_horizons_line_up(world, fakes):
    """An off-by-one would cost the perfect model its perfection; here the baseline."""
    episodes = episodes_of(world[1])
    scores = scores_of(world, fakes, "perfect", episodes)
    for k, horizon in enumerate((1, 2, 4, 8)):
        expected = psnr(episodes.frames[:, 3], episodes.frames[:, 3 + horizon])
        np.testing.assert_allclose(scores.psnr["copy"][:, k], expected)


def test_imagined_tokens_continue_the_context(world, fakes):
    models, reader = world
    episodes = episodes_of(reader)
    scores = scores_of(world, fakes, "perfect", episodes)
    np.testing.assert_array_equal(models["perfect"].decode(scores.imagined_tokens), episodes.frames)


def test_batch_size_changes_nothing(world, fakes):
    small, whole = scores_of(world, fakes, "perfect", batch=5), scores_of(world, fakes, "perfect", batch=64)
    for name in small.psnr:
        np.testing.assert_array_equal(small.psnr[name], whole.psnr[name])
        np.testing.assert_array_equal(small.ssim[name], whole.ssim[name])


def test_shuffled_actions_are_another_episodes_after_the_true_context(world, fakes):
    models, reader = world
    episodes, config = episodes_of(reader), make_config()
    donor, seen = fidelity.donors(episodes.lengths, config.seed), []

    class Recorder(fakes.Imagination):
        def __init__(self, *args, **inputs):
            super().__init__(*args, **inputs)
            seen.append([inputs["context_actions"]])

        def step(self, actions):
            seen[-1].append(actions[:, None])
            return super().step(actions)

    model = models["perfect"]
    fidelity.measure(model, lambda **inputs: Recorder(model, **inputs), episodes, replace(config, batch=64))
    true, shuffled = (np.concatenate(actions, 1) for actions in seen)
    np.testing.assert_array_equal(true, episodes.actions[:, :11])
    np.testing.assert_array_equal(shuffled[:, :3], episodes.actions[:, :3])
    np.testing.assert_array_equal(shuffled[:, 3:], episodes.actions[donor, 3:11])


@pytest.mark.parametrize("n", [2, 3, 10, 101])
def test_nobody_keeps_its_own_actions_and_everybodys_are_used(n):
    for lengths in (np.full(n, 9), np.random.default_rng(n).integers(5, 9, n)):
        donor = fidelity.donors(lengths, seed=3)
        assert sorted(donor) == list(range(n))
        assert (donor != np.arange(n)).all()


def test_all_but_one_of_those_that_reach_a_horizon_are_lent_actions_by_one_that_does():
    lengths = np.random.default_rng(0).integers(5, 13, 40)
    drawn = [fidelity.donors(lengths, seed) for seed in range(20)]
    for donor in drawn:
        for shortest in np.unique(lengths)[1:]:
            reaches = lengths >= shortest
            assert (reaches & reaches[donor]).sum() == reaches.sum() - 1
    assert len({donor.tobytes() for donor in drawn}) == 20  # among equal lengths it is the seed's choice


@pytest.mark.parametrize("seed", range(4))
def test_two_episodes_that_reach_the_horizon_are_enough(world, fakes, seed):
    episodes = episodes_of(world[1])
    episodes = replace(episodes, lengths=np.where(np.isin(np.arange(NUM), [2, 7]), 12, 9))
    scores = scores_of(world, fakes, "drifting", episodes, seed=seed)
    by_name = {figure.name: figure for figure in fidelity.figures(scores, make_config(seed=seed))}
    assert by_name["psnr_h8"].n == 2
    assert by_name["action_following_psnr"].n == 1 and np.isfinite(by_name["action_following_psnr"].value)
    assert np.isfinite(fidelity.curve(scores.psnr["shuffled"], seed)["mean"]).all()


def test_a_horizon_that_one_episode_reaches_is_refused_before_any_is_imagined(world):
    episodes = episodes_of(world[1])
    episodes = replace(episodes, lengths=np.where(np.arange(NUM) == 4, 12, 9))
    with pytest.raises(UserError, match="1 episodes reach horizon 8, min_episodes asks for 2"):
        fidelity.measure(world[0]["perfect"], None, episodes, make_config())


def test_short_episodes_are_left_out_where_they_do_not_reach(world, fakes):
    episodes = episodes_of(world[1])
    short = np.zeros(len(episodes), bool)
    short[:3] = True
    episodes = replace(episodes, lengths=np.where(short, 9, 12))  # reach horizon 4 (9 >= 4 + 4), not 8
    scores = scores_of(world, fakes, "drifting", episodes)
    donor = fidelity.donors(episodes.lengths, 0)
    np.testing.assert_array_equal(np.isnan(scores.psnr["model"][:, 3]), short)
    np.testing.assert_array_equal(np.isnan(scores.psnr["shuffled"][:, 3]), short | short[donor])
    assert not np.isnan(scores.psnr["model"][:, :3]).any()
    figures = {figure.name: figure for figure in fidelity.figures(scores, make_config())}
    assert figures["psnr_h8"].n == NUM - 3
    assert figures["psnr_h4"].n == NUM
    assert figures["action_following_psnr"].n == (~(short | short[donor])).sum()
    assert fidelity.curve(scores.psnr["model"], 0)["n"] == [NUM, NUM, NUM, NUM - 3]


def test_windows_begin_every_so_many_frames_and_are_whole(world):
    """Clips of 14 frames: windows of 6 frames from 0, 4 and 8; those from 12 on would not be whole."""
    episodes = read_episodes(world[1], 6, 5, 5, seed=0, every=4)
    assert episodes.starts.tolist() == [0, 4, 8] * 5
    assert episodes.numbers.tolist() == np.repeat(np.arange(5), 3).tolist()
    alone = read_episodes(world[1], 14, 5, 5, seed=0)
    assert episodes.of_episodes == alone.names
    for i, (number, start) in enumerate(zip(episodes.numbers, episodes.starts, strict=True)):
        np.testing.assert_array_equal(episodes.frames[i], alone.frames[number, start : start + 6])
        assert episodes.names[i] == alone.names[number]
        known = min(start + 6, 13) - start  # the last action of a clip is not known
        np.testing.assert_array_equal(episodes.actions[i, :known], alone.actions[number, start : start + known])
    assert episodes.lengths.tolist() == [6] * 15
    short = read_episodes(world[1], 40, 5, 5, seed=0, every=4)  # none is whole: the starts alone, as without `every`
    np.testing.assert_array_equal(short.frames, read_episodes(world[1], 40, 5, 5, seed=0).frames)


def test_figures_of_several_windows_are_means_over_episodes_of_their_means(world, fakes):
    episodes = read_episodes(world[1], 6, 5, None, seed=0, every=4)
    scores = scores_of(world, fakes, "drifting", episodes, horizons=(1, 2), judge_horizon=1)
    gain = (scores.psnr["model"] - scores.psnr["copy"])[:, 1].reshape(NUM, 3).mean(1)
    config = make_config(horizons=(1, 2), judge_horizon=1)
    by_name = {figure.name: figure for figure in fidelity.figures(scores, config)}
    figure = by_name["psnr_gain_over_copy_h2"]
    assert (figure.value, figure.n) == (pytest.approx(gain.mean()), NUM)
    assert (figure.low, figure.high) == pytest.approx(fidelity.mean_interval(gain, config.seed))
    once = scores.per_episode()
    np.testing.assert_array_equal(once.per_episode().psnr["model"], once.psnr["model"])


def test_with_one_window_an_episode_the_scores_are_as_they_were_measured(world, fakes):
    scores = scores_of(world, fakes, "drifting")
    for before, after in zip((scores.psnr, scores.ssim), (scores.per_episode().psnr, scores.per_episode().ssim),
                             strict=True):  # fmt: skip
        for name, values in before.items():
            np.testing.assert_array_equal(values, after[name])


def test_a_window_is_lent_the_actions_of_another_episode():
    rng = np.random.default_rng(0)
    for seed in range(20):
        numbers = np.repeat(np.arange(5), rng.integers(1, 7, 5))
        lengths = rng.integers(9, 12, len(numbers))
        donor = fidelity.donors(lengths, seed, numbers)
        assert (numbers[donor] != numbers).all()
    lengths = rng.integers(9, 12, 30)  # one window an episode: the cycle
    order = np.empty(30, int)
    order[fidelity.donors(lengths, 1)] = np.arange(30)
    assert sorted(order) == list(range(30))


def test_a_twin_is_a_series_of_its_own(world, fakes):
    models, reader = world
    episodes, config = episodes_of(reader), make_config()
    imagines = {name: functools.partial(fakes.Imagination, model) for name, model in models.items()}
    scores = fidelity.measure(models["perfect"], imagines["perfect"], episodes, config, imagines["drifting"])
    alone = fidelity.measure(models["perfect"], imagines["perfect"], episodes, config)
    for name, values in alone.psnr.items():
        np.testing.assert_array_equal(scores.psnr[name], values)
    names = {figure.name for figure in fidelity.figures(alone, config)}
    figures = {figure.name: figure for figure in fidelity.figures(scores, config)}
    assert set(figures) - names == {"psnr_gain_over_action_blind_h8"}
    gain = (scores.psnr["model"] - scores.psnr["twin"])[:, 3]
    assert figures["psnr_gain_over_action_blind_h8"].value == pytest.approx(gain.mean()) and gain.mean() > 1


def test_too_few_episodes_are_refused(world, fakes):
    with pytest.raises(UserError, match="12 episodes reach horizon 1, min_episodes asks for 20"):
        scores_of(world, fakes, "perfect", min_episodes=20)


def test_episodes_are_drawn_by_seed_and_counted(world, fakes, tmp_path):
    _, reader = world
    some = read_episodes(reader, 12, 5, 4, seed=1)
    assert len(some) == 4
    assert some.left_out["beyond max_episodes"] == NUM - 4
    assert some.names == read_episodes(reader, 12, 5, 4, seed=1).names
    assert set(some.names) < set(read_episodes(reader, 12, 5, None, seed=2).names)
    with pytest.raises(UserError, match="has no episode of 30 frames"):
        read_episodes(reader, 40, 30, None, seed=0)

    clips = fakes.record(2, 6, "val", []) + fakes.record(3, 12, "val", [])
    clips[0] = replace(clips[0], info=replace(clips[0].info, start=7))
    folder = fakes.write_clips(tmp_path, clips)
    few = read_episodes(ClipReader(folder, "val"), 12, 8, None, seed=0)
    assert len(few) == 3
    assert few.left_out == {"starts within an episode": 1, "shorter than 8 frames": 1, "beyond max_episodes": 0}


def test_an_episode_ends_where_its_actions_are_not_known(fakes, tmp_path):
    clips = fakes.record(2, 12, "val", [])
    known = np.arange(12) < 7
    clips[0] = replace(clips[0], action_known=known)
    episodes = read_episodes(ClipReader(fakes.write_clips(tmp_path, clips), "val"), 12, 5, None, seed=0)
    cut = episodes.names.index(clips[0].info.episode)
    assert episodes.lengths[cut] == 8  # the frame that the last known action led to is still there
    np.testing.assert_array_equal(episodes.frames[cut, 8:], np.repeat(clips[0].frames[7:8], 4, 0))
    np.testing.assert_array_equal(episodes.actions[cut, :7], clips[0].actions[:7])
    assert not episodes.actions[cut, 7:].any()


def test_token_clips_and_a_missing_split_are_refused(world, fakes, tmp_path):
    with pytest.raises(UserError, match="no clips in the split 'test'"):
        ClipReader(world[1].folder, "test")
    clip = fakes.record(1, 6, "val", [])[0]
    tokens = replace(clip, frames=None, tokens=np.zeros((6, 4), np.uint16), info=replace(clip.info, tokenizer="abc"))
    with pytest.raises(UserError, match="give pixel clips"):
        read_episodes(ClipReader(fakes.write_clips(tmp_path, [tokens]), "val"), 12, 5, None, seed=0)


def test_episodes_of_several_kinds_are_refused(fakes, tmp_path):
    clips = fakes.record(2, 12, "val", [])
    clips[1] = replace(clips[1], info=replace(clips[1].info, action_type=ActionType.JOINT))
    with pytest.raises(UserError, match="is not of the kind of"):
        read_episodes(ClipReader(fakes.write_clips(tmp_path, clips), "val"), 12, 5, None, seed=0)


def test_configuration_says_what_is_wrong():
    for wrong in ({"horizons": (4, 2)}, {"judge_horizon": 3}, {"context_frames": 0}, {"window_every": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=r"must be|is not one of|at least"):
            FidelityConfig(**({"out": "o", "model": "m", "clips": "c"} | wrong))


def test_strip_puts_every_cell_in_its_place():
    rng = np.random.default_rng(0)
    real, imagined = rng.integers(0, 256, (2, 3, 8, 10, 3), dtype=np.uint8)
    picture = strip(real, imagined)
    step_y, step_x = 8 + GAP_PX, 10 + GAP_PX
    for k in range(3):
        x = slice(k * step_x, k * step_x + 10)
        np.testing.assert_array_equal(picture[:8, x], real[k])
        np.testing.assert_array_equal(picture[step_y : step_y + 8, x], imagined[k])
        worst = np.abs(real[k].astype(int) - imagined[k]).max(-1)
        np.testing.assert_array_equal(picture[2 * step_y :, x], np.repeat(worst[..., None], 3, -1))
    assert (picture[8:step_y] == 255).all()


def test_animation_shows_both_enlarged():
    rng = np.random.default_rng(0)
    real, imagined = rng.integers(0, 256, (2, 5, 8, 8, 3), dtype=np.uint8)
    pictures = side_by_side(real, imagined, context_frames=2)
    np.testing.assert_array_equal(pictures[:, 1:24:3, 1:24:3], real)
    np.testing.assert_array_equal(pictures[:, 1:24:3, -23::3], imagined)


def test_shown_episodes_stand_at_percentiles_of_the_gain():
    gain = np.r_[np.arange(101.0)[::-1], np.nan]
    assert {int(gain[i]): q for i, q in chosen_episodes(gain).items()} == {10: 10, 50: 50, 90: 90}
    assert len(chosen_episodes(np.array([1.0, np.nan]))) == 1

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from tiny_clips import pixel_folder

from whale.calibration import Calibration
from whale.errors import UserError
from whale.play.catalogue import Catalogue
from whale.play.download import episode_file
from whale.play.session import Session
from whale.rollout import Imagination
from whale.uncertainty import Retracing

LEFT, UP = [-0.05, 0, 0, 0, 0, 0, 1], [0, 0.04, 0, 0, 0, 0, 0]


def driven(catalogue, actions, model="first", episode=0):
    session = Session(catalogue, episode, model)
    for action in actions:
        session.step(action)
    return session


def frames_of(session):
    return np.stack(session.runs[session.model].frames)


def test_it_shows_what_the_engine_imagines(catalogue):
    session = driven(catalogue, [LEFT, UP, UP], episode=1)
    recording = catalogue.recording(1)
    engine = Imagination(catalogue.models["first"], recording.frames[None, :3], recording.actions[None, :2], "tabletop",
                         0.2, retracing=Retracing())  # fmt: skip
    frames = [engine.frame()[0].copy()]
    for action, shown in zip([LEFT, UP, UP], session.view["runs"]["first"], strict=True):
        step = engine.step(np.array([action], np.float32))
        frames.append(engine.frame()[0].copy())
        assert shown["reward"] == step.reward[0] and shown["terminated"] == step.terminated[0]
        assert shown["uncertainty"]["top"] == step.uncertainty.top[0] > 0
    np.testing.assert_array_equal(frames_of(session), frames)
    assert len({frame.tobytes() for frame in frames}) > 1, (
        "a model that shows one thing would pass whatever it is given"
    )


def test_a_step_that_was_undone_and_done_again_is_the_same(catalogue):
    session = driven(catalogue, [LEFT, UP, LEFT])
    frames, view = frames_of(session), session.view
    session.rewind(1)
    assert session.view["actions"] == view["actions"][:1] and len(frames_of(session)) == 2
    for action in (UP, LEFT):
        session.step(action)
    np.testing.assert_array_equal(frames_of(session), frames)
    assert session.view["runs"] == view["runs"] and session.view["revision"] > view["revision"]


def test_undoing_takes_no_work_of_the_model(catalogue, monkeypatch):
    session = driven(catalogue, [LEFT, UP, LEFT])
    with monkeypatch.context() as resting:
        for name in ("__init__", "step"):
            resting.setattr(Imagination, name, lambda *_, **__: 1 / 0)
        for step in (2, 1):
            session.rewind(step)
    session.step(UP)
    np.testing.assert_array_equal(frames_of(session), frames_of(driven(catalogue, [LEFT, UP])))


def test_another_checkpoint_replays_the_same_actions_and_the_first_one_stays(catalogue):
    session = driven(catalogue, [LEFT, UP])
    before = frames_of(session)
    session.choose_model("second")
    np.testing.assert_array_equal(frames_of(session), frames_of(driven(catalogue, [LEFT, UP], "second")))
    session.rewind(1)
    session.step(LEFT)  # the first one has not imagined this
    assert [len(session.view["runs"][name]) for name in ("first", "second")] == [1, 2]
    session.choose_model("first")
    np.testing.assert_array_equal(frames_of(session), frames_of(driven(catalogue, [LEFT, LEFT])))
    np.testing.assert_array_equal(frames_of(session)[:2], before[:2])


def test_the_recording_can_drive_until_it_ends(catalogue):
    session = Session(catalogue)
    recording = catalogue.recording(0)
    for _ in range(7):  # of 10 frames 3 are context
        session.follow()
    np.testing.assert_array_equal(session.actions, recording.actions[2:])
    assert session.view["same_actions"] == session.view["recorded_steps"] == 7
    with pytest.raises(UserError, match="recording has ended"):
        session.follow()
    session.rewind(2)
    session.step(UP)
    session.follow()
    assert session.view["same_actions"] == 2 and session.drivers == ["recording"] * 2 + ["you", "recording"]


def test_the_error_shown_is_that_to_the_recorded_frame_through_the_tokenizer(catalogue):
    session = Session(catalogue)
    session.follow()
    model, recording = catalogue.models["first"], catalogue.recording(0)
    through = model.decode(model.encode(recording.frames)[None])[0, 3].astype(float)
    expected = np.sqrt(((frames_of(session)[1] - through) ** 2).mean())
    assert session.view["runs"]["first"][0]["error"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ([0.2, 0, 0, 0, 0, 0, 1], "dx of the action is 0.2, outside of -0.075 to 0.075"),
        ([0, 0, 0, 0, 0, 0, 1.5], "gripper of the action is 1.5"),
        ([float("nan"), 0, 0, 0, 0, 0, 1], "dx of the action is nan"),
        ([1e400, 0, 0, 0, 0, 0, 1], "dx of the action is inf"),
        ([0, 0], r"shape \(2,\)"),
        ([[0] * 7], r"shape \(1, 7\)"),
        (["0"] * 7, "no list of numbers"),
        ([10**50, 0, 0, 0, 0, 0, 1], "no list of numbers"),
        ([1e300, 0, 0, 0, 0, 0, 1], "dx of the action is 1e\\+300"),
        ([[0], [0, 1]], "no list of numbers"),
        (None, "no list of numbers"),
    ],
)
def test_a_bad_action_is_refused_in_words_and_nothing_has_happened(catalogue, action, words):
    session = driven(catalogue, [LEFT])
    view = session.view
    with pytest.raises(UserError, match=words):
        session.step(action)
    assert session.view is view
    session.step(UP)
    np.testing.assert_array_equal(frames_of(session), frames_of(driven(catalogue, [LEFT, UP])))


def test_a_step_that_fails_within_the_model_leaves_the_session_as_it_was(catalogue, monkeypatch):
    session = driven(catalogue, [LEFT, UP])
    with monkeypatch.context() as broken:
        broken.setattr(Imagination, "frame", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.step(UP)
    assert session.view["actions"] == [np.float32(action).tolist() for action in (LEFT, UP)]
    session.step(LEFT)
    np.testing.assert_array_equal(frames_of(session), frames_of(driven(catalogue, [LEFT, UP, LEFT])))


def test_an_episode_that_cannot_be_begun_leaves_the_session_as_it_was(catalogue, monkeypatch):
    session = driven(catalogue, [LEFT, UP])
    with monkeypatch.context() as broken:
        broken.setattr(Imagination, "__init__", lambda self, *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.choose_episode(1)
    session.step(LEFT)
    np.testing.assert_array_equal(frames_of(session), frames_of(driven(catalogue, [LEFT, UP, LEFT])))


def test_what_is_not_there_is_refused(catalogue):
    session = driven(catalogue, [LEFT])
    for wrong in (lambda: session.rewind(2), lambda: session.rewind(-1), lambda: session.choose_model("third"),
                  lambda: session.choose_episode(99), lambda: session.choose_episode(-1)):  # fmt: skip
        with pytest.raises(UserError, match="there is no"):
            wrong()
    assert session.view["actions"] and session.episode == 0


def test_an_episode_has_an_end(catalogue):
    session = driven(catalogue, [UP] * 12)
    with pytest.raises(UserError, match="its 12 steps"):
        session.step(UP)
    session.rewind(0)
    assert session.view["runs"]["first"] == [] and len(frames_of(session)) == 1


def calibration(model, **changes):
    values = {
        "weights": model.checkpoint_hash, "signal": "mean", "retracing": Retracing(), "dataset": "tabletop",
        "clips": "", "episodes": 2, "frames": 8, "context_frames": 3, "horizon": 4, "uncertainty": (0.0, 10.0),
        "error": (1.0, 101.0),
    }  # fmt: skip
    return Calibration(**values | changes)


def test_a_calibration_turns_accumulated_uncertainty_into_grey_levels(config):
    catalogue = Catalogue(config)
    assert "whale eval uncertainty" in catalogue.gauges["first"].hint
    for name, model in catalogue.models.items():
        model.calibration = calibration(model, dataset="tabletop" if name == "first" else "another")
    catalogue.gauges = {name: catalogue._gauge(name) for name in catalogue.models}
    assert catalogue.gauges["second"].calibration is None and "another" in catalogue.gauges["second"].hint
    session = driven(catalogue, [LEFT, UP, UP])
    session.rewind(1)
    for action in (UP, UP):
        session.step(action)
    steps = session.view["runs"]["first"]
    added = np.cumsum([step["uncertainty"]["mean"] for step in steps])
    np.testing.assert_allclose([step["expected_error"] for step in steps], 1 + 10 * added, rtol=1e-5)
    session.choose_model("second")
    assert session.view["runs"]["second"][0]["expected_error"] is None


def test_without_uncertainty_everything_else_goes_on(config):
    for changes, words in (({"retracing": None}, "switched off"), ({"context_frames": 1}, "needs 2 context frames")):
        catalogue = Catalogue(replace(config, **changes))
        assert words in catalogue.gauges["first"].hint
        session = driven(catalogue, [LEFT, UP])
        assert [step["uncertainty"] for step in session.view["runs"]["first"]] == [None, None]
        assert np.isnan(np.load(io.BytesIO(episode_file(session)))["uncertainty_top"]).all()


def test_a_download_holds_the_episode_and_what_made_it(catalogue, config):
    session = Session(catalogue, 2, "second")
    session.follow()
    session.step(UP)
    with np.load(io.BytesIO(episode_file(session)), allow_pickle=False) as found:
        content = dict(found)
    recording, view = catalogue.recording(2), session.view
    np.testing.assert_array_equal(content["frames"], frames_of(session))
    np.testing.assert_array_equal(content["actions"], np.float32(view["actions"]))
    np.testing.assert_array_equal(content["recorded_frames"], recording.frames[2:])
    np.testing.assert_array_equal(content["context_actions"], recording.actions[:2])
    steps = view["runs"]["second"]
    np.testing.assert_array_equal(content["rewards"], np.float32([step["reward"] for step in steps]))
    tops = np.float32([step["uncertainty"]["top"] for step in steps])
    np.testing.assert_array_equal(content["uncertainty_top"], tops)
    assert np.isfinite(content["error"]).tolist() == [True, False]  # the second action was not the recorded one
    about = json.loads(str(content["about"]))
    assert about["model_sha256"] == catalogue.models["second"].checkpoint_hash
    assert about["drivers"] == ["recording", "you"] and about["episode"] == recording.name
    again = Imagination(catalogue.models["second"], content["context_frames"][None], content["context_actions"][None],
                        about["dataset"], about["control_period_sec"])  # fmt: skip
    for action, frame in zip(content["actions"], content["frames"][1:], strict=True):
        again.step(action[None])
        np.testing.assert_array_equal(again.frame()[0], frame)


def test_models_and_clips_that_do_not_fit_are_refused(config, tmp_path):
    larger = pixel_folder(tmp_path / "larger", train=2, val=1, size_px=32)
    with pytest.raises(UserError, match=r"models\.first: the model takes frames of 16 px"):
        Catalogue(replace(config, clips=larger))
    with pytest.raises(UserError, match="no episode that begins with 11 frames"):
        Catalogue(replace(config, context_frames=10))
    with pytest.raises(ValueError, match="recorded"):
        replace(config, models={"recorded": config.models["first"]})

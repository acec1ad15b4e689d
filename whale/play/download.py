"""A driven episode as one file that NumPy alone opens: `np.load(file)`, nothing in it is pickled."""

import io
import json

import numpy as np

from whale.config import to_values
from whale.play.session import FACTORS, Session


def episode_file(session: Session) -> bytes:
    """The episode under the model that is shown, N steps of actions, as the bytes of an `.npz`.

    `context_frames` uint8 [C, H, W, 3] and `context_actions` float32 [C - 1, 7] are what the model was given;
    `actions` float32 [N, 7]; `frames` uint8 [N + 1, H, W, 3], the first the last context frame through the tokenizer;
    `rewards`, `terminated`, `expected_error`, `error` and each part of the uncertainty float32 [N], NaN where there is
    none (`error`, that to the recorded frame, is there as long as the actions are the recorded ones);
    `recorded_frames`, the recording from the last context frame on; `about`, a JSON text: what made it.
    """
    catalogue, recording, run = session.catalogue, session.recording, session.runs[session.model]
    config, given = catalogue.config, catalogue.config.context_frames
    retracing = catalogue.gauges[session.model].retracing
    about = {
        "model": session.model,
        "source": str(config.models[session.model]),
        "model_sha256": run.model.checkpoint_hash,
        "clips": str(config.clips),
        "clips_hash": catalogue.starts.reader.manifest.hash,
        "split": config.split,
        "dataset": catalogue.dataset,
        "control_period_sec": catalogue.control_period_sec,
        "episode": recording.name,
        "instruction": recording.instruction,
        "start_frame": given - 1,
        "drivers": session.drivers,
        "retracing": to_values(retracing) if retracing else None,
    }
    numbers = {
        name: np.array([getattr(step, name) for step in run.steps], np.float32)
        for name in ("reward", "terminated", "expected_error", "error")
    }
    numbers["error"][session.same_actions() :] = np.nan
    for name in FACTORS:
        values = [step.uncertainty[name] if step.uncertainty else None for step in run.steps]
        numbers[f"uncertainty_{name}"] = np.array(values, np.float32)
    arrays = {
        "context_frames": recording.frames[:given],
        "context_actions": recording.actions[: given - 1],
        "actions": np.array(session.actions, np.float32).reshape(-1, 7),
        "frames": np.stack(run.frames),
        "recorded_frames": recording.frames[given - 1 :],
        "rewards": numbers.pop("reward"),
        **numbers,
        "about": np.array(json.dumps(about, indent=1)),
    }
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return out.getvalue()

"""The three tasks one after another, with a simulator in the world model's place."""

import hashlib
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clips import pixel_folder
from tiny_model import tiny_config

from whale.errors import UserError
from whale.eval import run
from whale.eval.config import FidelityConfig, FinetuneConfig, ReportConfig, TokenEntropyConfig, ValueConfig
from whale.models.world_model import WorldModel
from whale.sim.tabletop import ACTION_STATUS

STAGES = [{"command": "whale eval <value>", "seconds": 65, "exit_code": 0}]


@pytest.fixture(scope="module")
def finished(fakes, tmp_path_factory):
    """A folder in which all tasks but the report were run, for a good and a bad model."""
    root = tmp_path_factory.mktemp("finished")
    models = {"good": fakes.Simulator(levels=8, drift=0.004), "bad": fakes.Simulator(levels=8, drift=0.1, name="bad")}
    clips = fakes.record(6, 14, "val", models.values()) + fakes.record(24, 11, "train", [], 500)
    fakes.write_clips(root / "clips", clips)
    for model in models.values():
        fakes.know_starts(model, 3, 4)
    out = root / "eval"
    scored = FidelityConfig(out=out, model=Path("good"), clips=root / "clips", horizons=(1, 8))
    sides = {"model": Path("good"), "undertrained": Path("bad"), "needs": {"value_pearson": {"at_least": 0.5}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_load", lambda folder: models[folder.name])
        patch.setattr("whale.rollout.Imagination", fakes.Imagination)
        run.run_fidelity(replace(scored, needs={"psnr_gain_over_copy_h8": {"at_least": 0.5}}))
        run.run_fidelity(replace(scored, name="finetuned"))
        run.run_fidelity(replace(scored, name="scratch", model=Path("bad")))
        run.run_value(ValueConfig(out=out, clips=root / "clips", num_starts=3, horizon=10, **sides))
    (root / "budget.json").write_text(json.dumps({"install_sec": 5, "stages": STAGES}))
    return root


@pytest.fixture
def pipeline(finished, tmp_path):
    """The report's configuration over a copy of what the other tasks wrote."""
    shutil.copytree(finished / "eval", tmp_path / "eval")
    shutil.copy(finished / "budget.json", tmp_path)
    out = tmp_path / "eval"
    sides = {"finetuned": out / "finetuned.json", "scratch": out / "scratch.json"}
    return ReportConfig(
        title="A <b>title</b> & more",
        out=out,
        parts=(out / "fidelity.json", out / "value.json"),
        budget=tmp_path / "budget.json",
        finetune=FinetuneConfig(**sides, need={"at_least": 0.01}),
    )


def test_the_whole_evaluation(pipeline, capsys):
    run.run_report(pipeline)
    printed = capsys.readouterr().out
    results = json.loads((pipeline.out / "results.json").read_text())
    figures = {figure["name"]: figure for figure in results["figures"]}
    assert {"psnr_gain_over_copy_h8", "psnr_below_ceiling_h8", "action_following_psnr", "value_pearson", "mmrv",
            "value_spearman", "value_pearson_actions_only", "value_pearson_undertrained", "mmrv_undertrained",
            "token_flip_rate", "finetune_psnr_gain_over_scratch"} <= set(figures)  # fmt: skip
    for figure in figures.values():
        assert set(figure) == {"name", "value", "low", "high", "unit", "n", "need", "holds"}
    assert figures["value_pearson"]["holds"] is True
    assert len(re.findall("PASS", printed)) == 3
    assert str(pipeline.out / "report.html") in printed
    check_finetune(pipeline, figures["finetune_psnr_gain_over_scratch"])
    check_page(pipeline, results)
    check_media(pipeline, results)


def check_finetune(config, figure):
    sides = [json.loads(path.read_text()) for path in (config.finetune.finetuned, config.finetune.scratch)]
    assert sides[0]["per_episode"]["episodes"] == sides[1]["per_episode"]["episodes"]
    per_episode = [np.array(side["per_episode"]["psnr"]["model"])[:, 1] for side in sides]
    assert figure["value"] == pytest.approx((per_episode[0] - per_episode[1]).mean())
    assert figure["n"] == 6


def check_page(config, results):
    page = (config.out / "report.html").read_text()
    assert "A &lt;b&gt;title&lt;/b&gt; &amp; more" in page
    assert "whale eval &lt;value&gt;" in page
    assert "all 3 figures hold" in page
    assert results["parts"][0]["checkpoint_hash"] in page

    links = []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "link", "iframe")
            links.extend(value for key, value in attrs if key in ("src", "href"))

    Links().feed(page)
    assert len(links) == 3 * 2 + 2 + 2 + 1  # strips and animations, curves, scatters, fine-tuning
    assert all(link.startswith("data:image/") for link in links)
    assert not re.search(r"url\(|@import|https?://", page)


def check_media(config, results):
    for entry in results["parts"][0]["media"]:
        content = (config.out / entry["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        if entry["kind"] == "animation":
            with Image.open(io.BytesIO(content)) as animation:
                assert animation.n_frames == 12
        else:
            assert entry["horizons"] == [0, 1, 8]
    with Image.open(config.out / "picture.png") as picture:
        assert 1500 <= picture.width <= 1700


def test_a_figure_that_does_not_hold_fails_after_all_is_written(pipeline, capsys):
    reversed_sides = FinetuneConfig(
        finetuned=pipeline.finetune.scratch, scratch=pipeline.finetune.finetuned, need={"at_least": 0.01}
    )
    with pytest.raises(SystemExit) as stop:
        run.run_report(replace(pipeline, finetune=reversed_sides))
    assert stop.value.code == 1
    assert "FAIL" in capsys.readouterr().out
    assert "1 of 3 figures falls short" in (pipeline.out / "report.html").read_text()


def test_the_page_is_made_from_the_results_alone(pipeline):
    """The same bytes again, though parts and budget are gone."""
    run.run_report(pipeline)
    first = (pipeline.out / "report.html").read_bytes()
    for path in (*pipeline.parts, pipeline.finetune.finetuned, pipeline.finetune.scratch, pipeline.budget):
        path.unlink()
    run.write_report(pipeline.out)
    assert (pipeline.out / "report.html").read_bytes() == first


def test_a_fidelity_result_alone_makes_a_report(pipeline):
    alone = replace(pipeline, parts=pipeline.parts[:1], finetune=None, budget=None)
    run.run_report(alone)
    assert "Imagined values" not in (pipeline.out / "report.html").read_text()


def test_what_the_report_refuses(pipeline):
    out = pipeline.out
    with pytest.raises(UserError, match="two of the parts hold a figure 'psnr_gain_over_copy_h8'"):
        run.run_report(replace(pipeline, parts=(out / "fidelity.json", out / "finetuned.json")))
    with pytest.raises(UserError, match="is a result of the task 'value'"):
        run.run_report(replace(pipeline, finetune=replace(pipeline.finetune, scratch=out / "value.json")))
    with pytest.raises(UserError, match="there is no budget file"):
        run.run_report(replace(pipeline, budget=out / "absent.json"))
    with pytest.raises(UserError, match="holds no stage timings"):
        run.run_report(replace(pipeline, budget=out / "value.json"))
    scratch = json.loads(pipeline.finetune.scratch.read_text())
    pipeline.finetune.scratch.write_text(json.dumps(scratch | {"data_manifest_hash": "another"}))
    with pytest.raises(UserError, match="differ in data_manifest_hash"):
        run.run_report(pipeline)
    (out / "fidelity" / "strip_50.png").unlink()
    with pytest.raises(UserError, match=r"strip_50\.png is listed in the results"):
        run.run_report(pipeline)
    assert not (out / "results.json").exists()
    assert not (out / "report.html").exists()


def test_a_twin_that_sees_actions_or_has_other_tokens_is_refused(finished, fakes, tmp_path, monkeypatch):
    models = {name: fakes.Simulator(name=name) for name in ("model", "seeing", "foreign")}
    for name, model in models.items():
        model.config.dynamics = SimpleNamespace(action_blind=name == "foreign")
    models["foreign"].tokenizer.fingerprint = "another"
    monkeypatch.setattr(run, "_load", lambda folder: models[folder.name])
    scored = FidelityConfig(out=tmp_path / "out", model=Path("model"), clips=finished / "clips", horizons=(1, 8))
    with pytest.raises(UserError, match="the twin seeing is not action-blind"):
        run.run_fidelity(replace(scored, twin=Path("seeing")))
    with pytest.raises(UserError, match="the twin foreign has tokenizer another, the model fingerprint-of-patch-book"):
        run.run_fidelity(replace(scored, twin=Path("foreign")))
    assert not (tmp_path / "out").exists()


def test_a_twin_and_token_cross_entropies_are_in_the_result_and_on_the_page(tmp_path, monkeypatch):
    """A small model with random weights and its blind twin: all the way to the page, every series in its place."""
    torch.manual_seed(0)
    config = tiny_config()
    blind = replace(config, dynamics=replace(config.dynamics, action_blind=True))
    models = {"model": WorldModel(config).eval(), "twin": WorldModel(blind).eval()}
    models["twin"].tokenizer.load_state_dict(models["model"].tokenizer.state_dict())
    monkeypatch.setattr(run, "_load", lambda folder: models[folder.name])
    pixel_folder(tmp_path / "clips")
    scored = FidelityConfig(
        out=tmp_path / "eval", model=Path("model"), twin=Path("twin"), clips=tmp_path / "clips", context_frames=2,
        horizons=(1, 2), judge_horizon=2, window_every=3, tokens=TokenEntropyConfig(samples=2),
    )  # fmt: skip
    run.run_fidelity(scored)
    result = json.loads((tmp_path / "eval" / "fidelity.json").read_text())
    assert set(result["curves"]["cross_entropy"]) == {"model", "twin", "copy"}
    assert set(result["curves"]["psnr"]) == {"model", "twin", "copy", "ceiling", "shuffled"}
    assert set(result["token_entropy"]["eps"]) == {"model", "twin", "copy"}
    assert result["samples"]["windows"] > result["samples"]["episodes"]
    names = {figure["name"] for figure in result["figures"]}
    assert {"ce_gain_over_action_blind", "ce_gain_over_copy_h1", "psnr_gain_over_action_blind_h2"} <= names
    run.run_report(ReportConfig(title="t", out=tmp_path / "eval", parts=(tmp_path / "eval" / "fidelity.json",)))
    page = (tmp_path / "eval" / "report.html").read_text()
    assert page.count("action-blind twin") > 2 and "token cross-entropy, nats" in page


@pytest.mark.parametrize("change", [
    {"action_type": "joint"}, {"action_status": (2, 2, 2, 0, 0, 0, 2)},
])  # fmt: skip
@pytest.mark.parametrize("changed", ["model", "twin"])
def test_actions_that_mean_something_else_to_the_model_are_refused(tmp_path, monkeypatch, change, changed):
    config, out = tiny_config(), tmp_path / "out"
    sizes = {"model": config, "twin": replace(config, dynamics=replace(config.dynamics, action_blind=True))}
    kinds = {"action_type": "eef_delta", "action_status": tuple(map(int, ACTION_STATUS))} | change
    cards = {"tabletop": replace(config.datasets["tabletop"], **kinds)}
    sizes[changed] = replace(sizes[changed], datasets=cards)
    models = {name: WorldModel(size).eval() for name, size in sizes.items()}
    models["twin"].tokenizer.load_state_dict(models["model"].tokenizer.state_dict())
    monkeypatch.setattr(run, "_load", lambda folder: models[folder.name])
    pixel_folder(tmp_path / "clips")
    scored = FidelityConfig(out=out, model=Path("model"), twin=Path("twin"), clips=tmp_path / "clips", horizons=(1, 8))
    eef = r"eef_delta actions \(actuated dx dy dz gripper, fixed rx ry rz\)"
    with pytest.raises(UserError, match=f"clips holds 'tabletop' with {eef}, the model {changed} knows") as caught:
        run.run_fidelity(scored)
    assert ("joint actions" in str(caught.value)) == ("action_type" in change)
    assert ("unknown rx ry rz" in str(caught.value)) == ("action_status" in change)
    assert not out.exists()


def test_a_model_of_another_frame_size_is_refused(finished, fakes, tmp_path, monkeypatch):
    """Before anything is run, which these models could not: they do not know the scenes."""
    models = {"right": fakes.Simulator(), "small": fakes.Simulator(image_px=32)}
    monkeypatch.setattr(run, "_load", lambda folder: models[folder.name])
    right, small, out = Path("right"), Path("small"), tmp_path / "out"
    halved = [replace(clip, frames=clip.frames[:, ::2, ::2]) for clip in fakes.record(2, 6, "train", [])]
    halved = fakes.write_clips(tmp_path / "halved", halved)

    def scored(model, **changes):
        return FidelityConfig(**({"out": out, "model": model, "clips": finished / "clips"} | changes))

    def valued(model, **changes):
        return ValueConfig(**({"out": out, "model": model, "clips": finished / "clips"} | changes))

    is_64 = r"gives frames of 64 x 64 px, the model small takes 32 x 32\n  remedy: name a model trained on 64 px"
    is_32 = r"halved gives frames of 32 x 32 px, the model right takes 64 x 64(.|\n)*size_px=64"
    with pytest.raises(UserError, match=f"clips {is_64}, or clips converted with size_px=32"):
        run.run_fidelity(scored(small, horizons=(1, 8)))
    with pytest.raises(UserError, match=is_32):
        run.run_fidelity(scored(right, clips=halved, split="train", horizons=(1,), judge_horizon=1))
    for config in (valued(small), valued(right, undertrained=small)):
        with pytest.raises(UserError, match=f"the tabletop {is_64}$"):
            run.run_value(config)
    with pytest.raises(UserError, match=is_32):
        run.run_value(valued(right, clips=halved))
    assert not out.exists()

import pytest

from whale import cli
from whale.config import load_config
from whale.play.config import PlayConfig

WORDS = ["models.tiny=runs/tiny", "clips=runs/clips"]


def test_it_stands_beside_the_stages(capsys):
    assert cli.main(["--help"]) == 0
    assert any(
        line.split()[:1] == ["play"] and line.endswith(cli.PLAY) for line in capsys.readouterr().out.splitlines()
    )
    assert cli.main(["play", "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: whale play <config.yaml>")
    for key in ("models", "retracing.steps", "policies", "port", "max_sessions"):
        assert f"\n  {key}\n      " in told


def test_print_config_prints_what_loads_again(capsys, tmp_path):
    assert cli.main(["play", *WORDS, "port=8123", "retracing=null", "--print-config"]) == 0
    printed = tmp_path / "play.yaml"
    printed.write_text(capsys.readouterr().out)
    config = load_config(PlayConfig, [printed])
    assert config == load_config(PlayConfig, [], [*WORDS, "port=8123", "retracing=null"])
    assert (config.port, config.host, config.retracing) == (8123, "127.0.0.1", None)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["pley"], ["no stage 'pley'", "did you mean 'play'"]),
        (["play", *WORDS, "prot=1"], ["prot: unknown key", "did you mean 'port'"]),
        (["play", "clips=x"], ["models: required"]),
        (["play", "models={}", "clips=x"], ["models names none"]),
        (["play", *WORDS, "port=70000"], ["port 70000 is not between 0 and 65535"]),
        (["play", *WORDS, "max_sessions=0"], ["max_sessions must be at least 1"]),
        (["play", "models.recorded=x", "clips=x"], ["the recording's name"]),
        (["play", *WORDS, "--dry-run"], ["play trains nothing"]),
        (["play", *WORDS, "port=0"], ["runs/clips", "remedy: "]),
    ],
)
def test_what_is_wrong_is_told(capsys, words, parts):
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    for part in parts:
        assert part in told

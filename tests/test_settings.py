"""The command line and the files of settings."""

from dataclasses import asdict, replace

import pytest
import yaml

from dmmd_kernels.presets import PRESETS
from dmmd_kernels.runs.settings import Settings, SettingsError, check_same_run, from_command_line
from tests.runs import TINY, fit


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder)
    return folder


SETTINGS = {name: preset.settings for name, preset in PRESETS.items()}


def test_unknown_settings_are_errors(tmp_path, capsys):
    with pytest.raises(SystemExit):
        from_command_line(["--stepz", "3"], SETTINGS)
    (tmp_path / "c.yaml").write_text("steps: 3\nstepz: 4\n")
    with pytest.raises(SystemExit):
        from_command_line(["--config", str(tmp_path / "c.yaml")], SETTINGS)
    assert "stepz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--steps", "0"],
        ["--t_min", "0.99"],
        ["--preset", "none"],
        ["--kernel=linear"],
        ["--ema=1"],
        ["--energy_below=0.4"],
        ["--preset=digits", "--energy_step=0"],
    ],
    ids=str,
)
def test_impossible_settings_are_errors(wrong):
    with pytest.raises(SystemExit):
        from_command_line(wrong, SETTINGS)


def test_the_command_line_wins_over_the_file_over_the_preset(tmp_path):
    (tmp_path / "c.yaml").write_text("steps: 3\nbatch: 4\n")
    got, resume = from_command_line(["--config", str(tmp_path / "c.yaml"), "--steps=5"], SETTINGS)
    assert (got.steps, got.batch, got.levels, resume) == (5, 4, Settings().levels, False)


def test_print_config_prints_what_config_reads(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        from_command_line(["--steps=5", "--print_config"], SETTINGS)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["steps"] == 5
    (tmp_path / "c.yaml").write_text(printed)
    got, _ = from_command_line(["--config", str(tmp_path / "c.yaml")], SETTINGS)
    assert got == replace(Settings(), steps=5)


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit):
        from_command_line(["--help"], SETTINGS)
    said = capsys.readouterr().out
    assert all(f"--{name}" in said for name in asdict(TINY))


def test_resume_reads_the_settings_of_the_run(finished):
    got, resume = from_command_line(["--out", str(finished), "--resume"], SETTINGS)
    assert resume
    assert got == replace(TINY, out=str(finished))


def test_a_setting_that_a_run_did_not_know_had_its_default():
    known = {k: v for k, v in TINY.plain().items() if k != "dropout"}
    check_same_run(TINY, known)
    with pytest.raises(SettingsError, match=r"dropout is 0.5, the run to be continued has 0.0"):
        check_same_run(replace(TINY, dropout=0.5), known)


def test_a_run_is_not_continued_with_other_settings(finished):
    with pytest.raises(SettingsError, match="batch is 9, the run to be continued has 8"):
        fit(finished, resume=True, batch=9)

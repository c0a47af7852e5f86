"""Settings as values: their limits, their flat form, and which of them hold a run together."""

import re
from dataclasses import FrozenInstanceError, fields

import pytest

from dmmd_kernels import evaluate, sample
from dmmd_kernels.presets import PRESETS, settings_of
from dmmd_kernels.runs.command_line import read
from dmmd_kernels.runs.settings import (
    Checked,
    Settings,
    SettingsError,
    SystemSettings,
    check_same_run,
    options,
)
from dmmd_kernels.systems import SYSTEMS
from dmmd_kernels.systems.dmmd.settings import DmmdDrawing
from tests.runs import IMAGES, TINY, fit

KINDS = {name: system.settings for name, system in SYSTEMS.items()}
PARTS = [Settings, *KINDS.values(), *(system.drawing for system in SYSTEMS.values())]
# Options of sample and evaluate beside those of a drawing.
PROGRAMS = {
    *("checkpoint", "seed", "device", "backend", "n", "out", "trajectory"),
    *("features", "weights", "seeds", "ablation"),
}
PAIRS = [(name, preset) for name, s in SYSTEMS.items() for preset in s.defaults]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder)
    return folder


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"t_min": 0.99}, "t_min must be at most t_max, got 0.99 and 0.98"),
        ({"t_max": 1.5}, r"t_max must be in \[0, 1\], got 1.5"),
        ({"ema": 1}, r"ema must be in \[0, 1\), got 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite, got nan"),
        ({"step_size": float("inf")}, "step_size must be finite, got inf"),
        ({"unet_multipliers": ()}, r"unet_multipliers must be at least 1 each, got \(\)"),
        ({"kernel": "linear"}, "step_rule=stable needs σ"),
        ({"energy_below": 0.4}, "energy_below must be 0 without a feature network"),
        ({"kernel": "cosine"}, "kernel must be one of gaussian, .*, linear, got 'cosine'"),
        ({"backend": "cuda"}, "backend must be one of auto, triton, native, reference, got 'cuda'"),
        ({"stepz": 3, "batches": 2}, "dmmd has no setting batches, stepz"),
    ],
    ids=str,
)
def test_impossible_settings_are_errors(wrong, text):
    with pytest.raises(SettingsError, match=text):
        TINY.changed(**wrong)


def test_what_is_left_out_of_a_drawing_has_no_limits():
    assert DmmdDrawing().step_size is None
    with pytest.raises(SettingsError, match="step_size must be positive, got 0"):
        DmmdDrawing(step_size=0)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(FrozenInstanceError):
        TINY.steps = 3
    changed = TINY.changed(steps=3, levels=2)
    assert (changed.steps, changed.system.levels) == (3, 2)
    assert (TINY.steps, TINY.system.levels) == (20, 3)


@pytest.mark.parametrize(("system", "preset"), PAIRS)
def test_flat_settings_are_read_as_themselves(system, preset):
    settings = settings_of(preset, system)
    assert settings.flat()["system"] == system
    assert read(settings.flat(), KINDS) == settings


def test_flat_settings_of_every_kind_of_value_are_read_as_themselves():
    changes = {"unet_attention": (), "flip": True, "step_size": 1e-300, "out": "a b,c=--d"}
    settings = IMAGES.changed(**changes, data_root="", keep_every=7, t_min=0.1 + 0.2)
    assert read(settings.flat(), KINDS) == settings


def test_a_record_without_a_system_is_one_of_dmmd():
    flat = IMAGES.flat()
    assert flat.pop("system") == "dmmd"
    assert read(flat, KINDS) == IMAGES


def test_a_run_has_its_folder():
    assert str(settings_of("digits").folder) == "runs/digits"
    assert str(TINY.changed(out="here").folder) == "here"
    other = type("Other", (SystemSettings,), {"name": "other"})
    assert str(Settings(system=other()).folder) == "runs/checkerboard-other"


def test_a_setting_that_a_run_did_not_know_had_its_default():
    known = {k: v for k, v in TINY.flat().items() if k not in ("dropout", "system")}
    check_same_run(TINY, known)
    with pytest.raises(SettingsError, match=r"dropout is 0.5, the run to be continued has 0.0"):
        check_same_run(TINY.changed(dropout=0.5), known)


def test_what_does_not_shape_the_training_may_differ():
    free = {"out": "x", "samples": 7, "micro_levels": 1, "step_size": 0.5, "particles": 3}
    check_same_run(TINY.changed(**free), TINY.flat())
    constant = TINY.changed(decay="constant")
    check_same_run(constant.changed(steps=40), constant.flat())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch": 9}, "batch is 9, the run to be continued has 8"),
        ({"levels": 4}, "levels is 4, the run to be continued has 3"),
        ({"unet_multipliers": (1, 3)}, r"unet_multipliers is \[1, 3\], .* has \[1, 2, 2, 2\]"),
        ({"steps": 40}, "steps is 40, the run to be continued has 20"),  # a cosine knows its end
    ],
    ids=str,
)
def test_a_run_is_not_continued_with_other_settings(finished, change, text):
    with pytest.raises(SettingsError, match=text):
        fit(finished, resume=True, **change)


def test_a_run_is_not_continued_as_another_system():
    with pytest.raises(SettingsError, match=r"system is 'dmmd', the run to be .* has 'other'"):
        check_same_run(TINY, TINY.flat() | {"system": "other"})


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
def test_every_setting_has_a_help(kind):
    found = options(kind)
    assert {option.name for option in found} == {field.name for field in fields(kind)} - {"system"}
    assert all(len(option.text) > 3 and option.text == option.text.strip() for option in found)
    assert issubclass(kind, Checked)


def names(kind):
    found = [option.name for option in options(kind)]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_name_means_two_things(name):
    """Settings are flat outside Python, and drawings are options beside those of programs."""
    system = SYSTEMS[name]
    reserved = {"system", "config", "print_config", "resume", "help"}
    assert not names(Settings) & (names(system.settings) | reserved)
    assert not names(system.settings) & reserved
    assert not names(system.drawing) & (PROGRAMS | {"help"})


def test_the_options_of_the_programs_are_the_ones_above(capsys):
    for program in (sample, evaluate):
        with pytest.raises(SystemExit):
            program.main(["--help"])
    shown = set(re.findall(r"^  --(\w+)", capsys.readouterr().out, re.MULTILINE))
    assert shown - names(DmmdDrawing) == PROGRAMS


def test_every_preset_is_one_of_some_system():
    assert {preset for _, preset in PAIRS} == set(PRESETS)
    for system, preset in PAIRS:
        settings = settings_of(preset, system)
        assert (settings.preset, settings.system.name) == (preset, system)

"""The command lines: what they read from arguments and files, and what they say of wrong ones."""

import time

import pytest
import yaml

from dmmd_kernels import evaluate, sample, train
from dmmd_kernels.presets import PRESETS, settings_of
from dmmd_kernels.runs.command_line import as_arguments, as_yaml, read, read_run
from dmmd_kernels.runs.settings import Settings, SettingsError, options
from dmmd_kernels.systems import SYSTEMS
from tests.runs import IMAGES, TINY, fit

KINDS = {name: system.settings for name, system in SYSTEMS.items()}
OFFERED = {name: list(system.defaults) for name, system in SYSTEMS.items()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder)
    return folder


def from_command_line(*arguments):
    return read_run([str(a) for a in arguments], train.__doc__, KINDS, settings_of, OFFERED)


def error_of(capsys, *arguments):
    """What is said of a wrong command line: one sentence, and where to read on."""
    with pytest.raises(SystemExit) as ended:
        from_command_line(*arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[1] == "(--help explains every option)"
    return said[0].removeprefix("python -m dmmd_kernels.train: error: ")


WRONG = {
    "--steps 0": "steps must be at least 1, got 0",
    "--steps 3.5": "--steps must be a whole number, got '3.5'",
    "--steps": "--steps: expected one argument",
    "--ema=much": "--ema must be a number, got 'much'",
    "--ema=nan": "ema must be finite, got nan",
    "--ema=1": "ema must be in [0, 1), got 1.0",
    "--flip=yes": "--flip must be true or false, got 'yes'",
    "--unet_multipliers=1,x": "--unet_multipliers must be a whole number, got 'x'",
    "--unet_multipliers=0,1": "unet_multipliers must be at least 1 each, got (0, 1)",
    "--t_min 0.99": "t_min must be at most t_max, got 0.99 and 0.98",
    "--preset none": f"--preset of dmmd must be one of {', '.join(PRESETS)}, got 'none'",
    "--system=mmd_gan --preset=digits": (
        "--preset of mmd_gan must be one of checkerboard, got 'digits'"
    ),
    "--system none": f"--system must be one of {', '.join(KINDS)}, got 'none'",
    "--kernel=linear": "step_rule=stable needs σ(t); give step_rule=constant with linear",
    "--kernel=cosine": (
        "--kernel must be one of gaussian, rational_quadratic, linear, got 'cosine'"
    ),
    "--energy_below=0.4": (
        "energy_below must be 0 without a feature network, got 0.4 and features=identity"
    ),
    "--preset=digits --energy_step=0": "energy_step must be positive, got 0.0",
    "--stepz 3": "there is no option --stepz; did you mean --steps?",
    "--step 3": "there is no option --step; did you mean --steps?",  # no abbreviations
    "3": "there is no option 3",
}


@pytest.mark.parametrize("arguments", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(capsys, arguments):
    said = error_of(capsys, *arguments.split())
    assert said == WRONG[arguments]
    assert not [word for word in ("Literal", "typing", "invalid", "NoneType") if word in said]


def test_flags_are_bare_or_told():
    for arguments, flip in ((["--flip"], True), (["--flip=false"], False), (["--flip", "true"], 1)):
        assert from_command_line("--preset=cifar10", *arguments)[0].flip == flip
    assert from_command_line("--flip", "--steps=3")[0].steps == 3


def test_lists_are_numbers_with_commas():
    got, _ = from_command_line("--unet_multipliers=1,3", "--unet_attention=")
    assert (got.system.unet_multipliers, got.system.unet_attention) == ((1, 3), ())


def write(folder, text, name="c.yaml"):
    (folder / name).write_text(text)
    return folder / name


def test_the_command_line_wins_over_the_files_in_order_over_the_preset(tmp_path):
    one = write(tmp_path, "steps: 3\nbatch: 4\nlevels: 2\n", "1.yaml")
    two = write(tmp_path, "batch: 6\nlevels: 7\n", "2.yaml")
    told = ["--levels=9", "--config", one, f"--config={two}", "--preset=digits"]
    got, resume = from_command_line(*told)
    digits = settings_of("digits")
    assert got == digits.changed(steps=3, batch=6, levels=9)
    assert not resume
    got, _ = from_command_line("--config", two, "--config", one)
    assert (got.batch, got.system.levels) == (4, 2)


def test_a_file_names_its_preset_and_system(tmp_path):
    path = write(tmp_path, "preset: digits\nsystem: dmmd\nsteps: 3\n")
    assert from_command_line("--config", path)[0] == settings_of("digits").changed(steps=3)


def test_print_config_prints_what_config_reads(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        from_command_line("--preset=digits_unet", "--steps=5", "--print_config")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["steps"] == 5
    got, _ = from_command_line("--config", write(tmp_path, printed))
    assert got == settings_of("digits_unet").changed(steps=5)


def test_the_yaml_of_settings_is_read_as_themselves(tmp_path):
    odd = IMAGES.changed(out="ein Ort: #1", unet_attention=(), step_size=1e-7, wandb=True)
    assert from_command_line("--config", write(tmp_path, as_yaml(odd)))[0] == odd


# Nine levels of nine: 9⁹ values in a few lines, of lists and of mappings that are merged.
LISTS = "steps: " + "".join(f"[&{name} " for name in "abcdefghi") + "[x]"
LISTS += "".join(f",{','.join([f'*{name}'] * 8)}]" for name in "ihgfedcba") + "\n"
MERGED = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{','.join([f'*{old}'] * 9)}]}}\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
FILES = {
    "a dict as a value": ("steps: {a: 1}\n", "steps must be text, a number, true or false"),
    "null": ("steps:\n", "steps must be text, a number, true or false, got None"),
    "null in a list": ("unet_attention: [4, null]\n", "unet_attention must be text, a number"),
    "a date": ("out: 2020-02-02\n", "out must be text, a number"),
    "a bomb of lists": (LISTS, "must not have aliases"),
    "a bomb of lists alone": (LISTS.removeprefix("steps: "), "must not have aliases"),
    "a bomb of mappings": (MERGED, "must not have aliases"),
    "an alias in itself": ("steps: &s [*s]\n", "must not have aliases"),
    "an alias": ("steps: &s 3\nbatch: *s\n", "must not have aliases"),
    "nested deep": ("steps: " + "[" * 10_000, "is no YAML of settings"),
    "a tag": ("steps: !!python/object/apply:os.system [touch owned]\n", "is no YAML of settings"),
    "no YAML": ("steps: [3\n", "is no YAML of settings"),
    "no text": ("\x00", "is no YAML of settings"),
    "no lines of settings": ("- steps\n", "must hold lines `name: value`"),
    "nothing": ("", "must hold lines `name: value`"),
    "a number as a name": ("3: 4\n", "there is no option 3"),
    "a list as a name": ("? [a]\n: 4\n", ""),
    "an option as a name": ("--steps: 4\n", "there is no option '--steps'"),
    "a value as a name": ("steps=4: 5\n", "there is no option 'steps=4'"),
    "an unknown name": ("stepz: 4\n", "there is no option --stepz; did you mean --steps?"),
    "a list for a number": ("steps: [3, 4]\n", "--steps must be a whole number, got '3,4'"),
    "an infinity": ("ema: .inf\n", "ema must be finite"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_wrong_file_is_said_in_a_sentence_and_soon(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    text, sentence = FILES[kind]
    began = time.process_time()
    with pytest.raises(SystemExit) as ended:
        from_command_line("--config", write(tmp_path, text))
    assert time.process_time() - began < 5
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in said
    assert said.count("\n") == 2
    assert len(said) < 1000
    assert "Traceback" not in said
    assert not (tmp_path / "owned").exists()


def test_a_missing_file_is_named(tmp_path, capsys):
    assert "none.yaml can't be read: No such file" in error_of(capsys, "--config=none.yaml")
    assert "can't be read: Is a directory" in error_of(capsys, f"--config={tmp_path}")


@pytest.mark.parametrize(
    "values", [{"steps": None}, {"steps": {}}, {3: 4}, {"steps=3": 4}, {"a": [[]]}], ids=str
)
def test_what_no_setting_has_is_refused(values):
    with pytest.raises(SettingsError, match=r"must be text, a number|there is no option"):
        as_arguments(values)


def test_a_record_of_unknown_settings_names_the_nearest():
    with pytest.raises(SettingsError, match=r"do not fit this version: .*mean --width_hidden\?"):
        read({"width_hiden": 3}, KINDS)
    with pytest.raises(SettingsError, match="do not fit this version: --system must be one of"):
        read({"system": "none"}, KINDS)


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as ended:
        from_command_line("--help")
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(f"--{name} " in said for name in TINY.flat())
    told = {option.text for kind in (Settings, type(TINY.system)) for option in options(kind)}
    words = " ".join(said.split())
    assert not [text for text in told if " ".join(text.split()) not in words]
    assert all(preset in said for preset in PRESETS)


def test_help_shows_the_defaults_of_the_preset(capsys):
    with pytest.raises(SystemExit):
        from_command_line("--preset=digits", "--help")
    assert "samples that a step takes from the data (48)" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize("program", [sample, evaluate])
@pytest.mark.parametrize("place", [None, "run", "nowhere", ""])
def test_programs_help_with_and_without_a_checkpoint(program, place, finished, capsys):
    given = {None: [], "run": ["--checkpoint", str(finished)]}
    arguments = given.get(place, ["--checkpoint", place])
    for order in ([*arguments, "--help"], ["--help", *arguments]):
        with pytest.raises(SystemExit) as ended:
            program.main(order)
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert "--method {dmmd," in said
        assert "--checkpoint" in said


def test_help_reads_no_checkpoint_that_has_no_name(capsys):
    with pytest.raises(SystemExit) as ended:
        sample.main(["--help", "--checkpoint"])
    assert ended.value.code == 0


def test_resume_reads_the_settings_of_the_run(finished):
    got, resume = from_command_line("--out", finished, "--resume")
    assert resume
    assert got == TINY.changed(out=str(finished))
    got, _ = from_command_line("--resume", f"--out={finished}", "--samples=7")
    assert got.samples == 7


def test_a_run_is_not_continued_as_one_of_another_system(finished, capsys):
    said = error_of(capsys, "--out", finished, "--resume", "--system=ddpm")
    assert said.startswith("system is 'ddpm', the run to be continued has 'dmmd'; leave it out")
    settings, resume = from_command_line("--out", finished, "--resume", "--system=dmmd")
    assert resume
    assert settings == TINY.changed(out=str(finished))

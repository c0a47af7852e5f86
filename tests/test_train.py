"""The programs: a run is its definition, continues bit for bit, and survives crashes and damage."""

import hashlib
import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save as to_bytes

from dmmd_kernels import checkpoint, comparison, sample, train
from dmmd_kernels.checkpoint import CheckpointError
from dmmd_kernels.experiment import load_run
from dmmd_kernels.presets import PRESETS
from dmmd_kernels.settings import Settings, SettingsError, from_command_line
from tests.cases import each_backend

TINY = Settings(
    backend="reference",
    data_size=200,
    steps=20,
    batch=8,
    levels=3,
    width_hidden=8,
    sample_levels=3,
    sample_steps=2,
    particles=20,
    clean=50,
    samples=40,
    log_every=5,
    save_every=5,
)


def fit(folder, *, resume=False, **changes):
    return train.fit(replace(TINY, out=str(folder), **changes), resume=resume, progress=False)


def digest(folder):
    """The step and the SHA-256 of the tensors of the newest checkpoint: the whole state."""
    found = checkpoint.find(folder)
    return found.step, hashlib.sha256((found.path / checkpoint.TENSORS).read_bytes()).hexdigest()


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"features": "mlp", "feature_count": 4, "feature_width": 8, "gradient_weight": 1.0},
        {"kernel": "linear", "features": "mlp", "step_rule": "constant", "clip": 0.1},
    ],
    ids=["identity", "penalised", "linear"],
)
@each_backend
def test_a_continued_run_is_the_uninterrupted_one(tmp_path, changes, name):
    changes = changes | {"decay": "constant", "backend": name}
    fit(tmp_path / "whole", **changes)
    fit(tmp_path / "parts", steps=10, **changes)
    torch.randn(7)  # whatever else happened in between
    fit(tmp_path / "parts", resume=True, **changes)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    steps = lambda folder: [line["step"] for line in read_log(tmp_path / folder)]
    assert steps("parts") == steps("whole") == [5, 10, 15, 20]


def test_training_lowers_the_loss_and_the_average_follows(finished):
    found = checkpoint.find(finished)
    assert all(np.isfinite(line["loss"]) for line in read_log(finished))
    moved = {
        kind: (found.tensors[f"{kind}.width.body.4.weight"]).norm() for kind in ("deep", "ema")
    }
    assert 0 < moved["ema"] < moved["deep"]


def test_ctrl_c_saves_and_the_run_goes_on(tmp_path, monkeypatch, finished, capsys):
    step = train.train_step

    def interrupted(state, *rest):
        if state.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(state, *rest)

    monkeypatch.setattr(train, "train_step", interrupted)
    assert fit(tmp_path / "run") is None
    assert digest(tmp_path / "run")[0] == 8
    assert f"--out {tmp_path / 'run'} --resume" in capsys.readouterr().out
    monkeypatch.undo()
    fit(tmp_path / "run", resume=True)
    assert digest(tmp_path / "run") == digest(finished)


def _run_in_child(folder, steps):
    torch.set_num_threads(1)
    fit(folder, resume=True, steps=steps, decay="constant", save_every=3)


def _start(folder, steps):
    context = multiprocessing.get_context("forkserver")
    # Imported once and inherited: the first optimiser loads torch._dynamo, which takes seconds.
    context.set_forkserver_preload(["torch._dynamo", train.__name__, __name__])
    child = context.Process(target=_run_in_child, args=(folder, steps))
    child.start()
    return child


def test_ten_kills_at_random_moments_change_nothing(tmp_path):
    steps, moments = 120, random.Random(0)
    begin = time.perf_counter()
    whole = _start(tmp_path / "whole", steps)
    whole.join()
    assert whole.exitcode == 0
    duration = time.perf_counter() - begin
    for _ in range(10):
        child = _start(tmp_path / "killed", steps)
        child.join(moments.uniform(0.02, 0.2) * duration)
        child.kill()
        child.join()
    last = _start(tmp_path / "killed", steps)
    last.join()
    assert last.exitcode == 0
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*")), "left-overs of a crash"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, finished):
    fit(tmp_path / "run")
    newest = checkpoint.find(tmp_path / "run").path
    content = bytearray((newest / checkpoint.TENSORS).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / checkpoint.TENSORS).write_bytes(content)
    fit(tmp_path / "run", resume=True)
    said = capsys.readouterr().out
    assert "step-00000020 can't be read: state.safetensors is not what was written" in said
    assert "continuing" in said
    assert digest(tmp_path / "run") == digest(finished)


def test_when_all_are_damaged_it_says_so(tmp_path, capsys):
    fit(tmp_path / "run")
    for record in tmp_path.rglob(checkpoint.RECORD):
        record.write_bytes(record.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"none of the 2 in .* can be read"):
        fit(tmp_path / "run", resume=True)
    assert train.main(["--out", str(tmp_path / "run"), "--resume"]) == 1
    assert "none of the 2" in capsys.readouterr().err


def test_a_full_disk_leaves_the_older_checkpoints(tmp_path, monkeypatch, finished):
    fit(tmp_path / "run", steps=10, decay="constant")
    before = digest(tmp_path / "run")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"could not be written.*No space left"):
        fit(tmp_path / "run", steps=20, decay="constant", resume=True)
    monkeypatch.undo()
    assert digest(tmp_path / "run") == before
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))


def mutated(content, chance):
    """One random change: a flipped byte, a cut, a run of noise, or doubled content."""
    content, place = bytearray(content), chance.randrange(len(content))
    kind = chance.randrange(4)
    if kind == 0:
        content[place] ^= chance.randrange(1, 256)
    elif kind == 1:
        del content[place:]
    elif kind == 2:
        content[place : place + 8] = chance.randbytes(8)
    else:
        content += content[place:]
    return bytes(content)


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.RECORD])
def test_mutated_checkpoints_are_refused(tmp_path, finished, name):
    place = checkpoint.find(finished).path
    files = {f: (place / f).read_bytes() for f in (checkpoint.TENSORS, checkpoint.RECORD)}
    chance = random.Random(1)
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    for _ in range(300):
        changed = mutated(files[name], chance)
        if changed == files[name]:
            continue
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(CheckpointError, match="can't be read"):
            checkpoint.load(tmp_path)


def forge(folder, tensors, record):
    """A checkpoint whose hashes are right whatever it holds, as an attacker would write it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / checkpoint.TENSORS).write_bytes(tensors)
    record = {k: v for k, v in record.items() if k != "record_sha256"}
    record["tensors_sha256"] = hashlib.sha256(tensors).hexdigest()
    record["record_sha256"] = checkpoint._digest(record)
    (folder / checkpoint.RECORD).write_text(json.dumps(record))


def test_forged_checkpoints_give_typed_errors(tmp_path, finished):
    found, chance = checkpoint.find(finished), random.Random(2)
    content = (found.path / checkpoint.TENSORS).read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    typed = 0
    for _ in range(300):
        changed = mutated(content[:header], chance) + content[header:]
        forge(tmp_path / "forged", changed, found.record)
        try:
            load_run(tmp_path / "forged", "cpu")
        except (CheckpointError, SettingsError):
            typed += 1
    assert typed > 200  # the rest changed nothing that is read


@pytest.mark.parametrize(
    "change",
    [
        {"settings": {}},
        {"settings": {"unknown": 1}},
        {"settings": asdict(TINY) | {"data": "../../etc/passwd"}},
        {"settings": asdict(TINY) | {"width_hidden": 9}},
        {"settings": asdict(TINY) | {"batch": "many"}},
        {"settings": asdict(TINY) | {"t_min": 2.0}},
        {"settings": 7},
        {"step": "ten"},
    ],
    ids=str,
)
def test_forged_records_give_typed_errors(tmp_path, finished, change):
    found = checkpoint.find(finished)
    forge(tmp_path, (found.path / checkpoint.TENSORS).read_bytes(), found.record | change)
    with pytest.raises((CheckpointError, SettingsError)):
        load_run(tmp_path, "cpu")


def test_tensors_that_do_not_fit_are_named(tmp_path, finished):
    found = checkpoint.find(finished)
    wrong = found.tensors | {"ema.width.body.0.bias": torch.zeros(3)}
    forge(tmp_path, to_bytes(wrong), found.record)
    with pytest.raises(CheckpointError, match=r"ema.width.body.0.bias must be \(8,\).*got \(3,\)"):
        load_run(tmp_path, "cpu")


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
    [["--steps", "0"], ["--t_min", "0.99"], ["--preset", "none"], ["--kernel=linear"], ["--ema=1"]],
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


def test_a_run_is_not_continued_with_other_settings(finished):
    with pytest.raises(SettingsError, match="batch is 9, the run to be continued has 8"):
        fit(finished, resume=True, batch=9)


def test_a_new_run_sets_the_old_one_aside(tmp_path, capsys):
    fit(tmp_path / "run", steps=5)
    fit(tmp_path / "run", steps=10)
    assert digest(tmp_path / "run")[0] == 10
    assert digest(tmp_path / "run-1")[0] == 5
    assert "is now in" in capsys.readouterr().out


def test_the_evaluation_writes_every_method(tmp_path, capsys):
    comparison.evaluate(fit(tmp_path / "run"))
    with np.load(tmp_path / "run" / "samples.npz") as samples:
        shapes = {name: samples[name].shape for name in samples.files}
    methods = ["dmmd", "fixed_0.1", "fixed_0.5", "linear", "data"]
    assert shapes == dict.fromkeys(methods, (40, 2))
    assert (tmp_path / "run" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    table = capsys.readouterr().out
    assert all(name in table for name in methods)


@pytest.mark.parametrize("kind", [".npz", ".png"])
def test_samples_come_from_any_checkpoint(tmp_path, finished, kind):
    older = min((finished / "checkpoints").iterdir())
    out = tmp_path / f"samples{kind}"
    sample.main(
        ["--checkpoint", str(older), "--n", "33", "--out", str(out), "--backend", "reference"]
    )
    if kind == ".npz":
        with np.load(out) as file:
            assert file["samples"].shape == (33, 2)
            assert np.isfinite(file["samples"]).all()
    else:
        assert out.read_bytes()[:4] == b"\x89PNG"


def test_sampling_depends_on_its_seed_alone(finished):
    run = load_run(finished, "cpu")
    first, again, other = (sample.draw_samples(run, 20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("wrong", [["--n", "0"], ["--out", "x.txt"], ["--checkpoint", "nowhere"]])
def test_sampling_refuses_what_it_cannot_do(tmp_path, finished, wrong, capsys):
    usual = ["--checkpoint", str(finished), "--out", str(tmp_path / "x.npz")]
    with pytest.raises(SystemExit):
        sample.main(usual + wrong)
    assert "error" in capsys.readouterr().err


def test_data_features_of_a_linear_kernel_are_their_mean():
    """The witness of the whole set and of its mean features have one gradient (DMMD, eq. 12)."""
    from dmmd_kernels.losses import witness_slope
    from dmmd_kernels.models import DeepKernel, MLPFeatures

    deep = DeepKernel(MLPFeatures(2, 4, 8), "linear").double()
    z, x_0 = torch.randn(1, 6, 2).double(), torch.randn(30, 2).double()
    t = torch.tensor([0.3], dtype=torch.float64)
    mean = sample.data_features(deep, x_0, t, rows=7)
    assert mean.shape == (1, 4)
    kernel, a = deep.kernel(t), deep(z, t).detach()
    slopes = [
        witness_slope(deep, z, a, b, t, kernel, backend="reference")
        for b in (mean, deep(x_0[None], t)[0].detach())
    ]
    torch.testing.assert_close(*slopes)


def test_nothing_is_pickled():
    folder = Path(train.__file__).parent
    words = ("pickle", "torch.load", "torch.save", "allow_pickle=True")
    for name in ("train", "sample", "checkpoint", "experiment", "comparison"):
        source = (folder / f"{name}.py").read_text()
        assert not [w for w in words if w in source.replace("Never pickle.", "")]

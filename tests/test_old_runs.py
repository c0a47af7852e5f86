"""Runs of versions before systems had names: what they left is read, restored and continued.

old_runs/points and old_runs/features are two runs of six steps: a width σ(t) on points with Adam,
and an MLP under a linear kernel with AdamW and penalties.
"""

import shutil
from pathlib import Path

import pytest
import torch

from dmmd_kernels import train
from dmmd_kernels.presets import settings_of
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.command_line import read_run
from dmmd_kernels.runs.run import draw_samples
from dmmd_kernels.systems import SYSTEMS, fit, load_run
from tests.runs import TINY, digest, read_log

RUNS = Path(__file__).parent / "old_runs"
BOTH = {"steps": 6, "save_every": 3, "decay": "constant", "samples": 10, "keep": 1}
BOTH |= {"width_hidden": 4}
KNOWN = {
    "points": BOTH,
    "features": BOTH
    | {"features": "mlp", "feature_count": 3, "feature_width": 4, "kernel": "linear"}
    | {"optimizer": "adamw", "weight_decay": 0.1, "warmup": 2, "step_rule": "constant"}
    | {"gradient_weight": 1.0, "feature_weight": 0.1, "penalty_batch": 4},
}
each = pytest.mark.parametrize("name", KNOWN)


def settings(name):
    return TINY.changed(out=name, **KNOWN[name])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the runs, in the working folder, as their settings name it."""
    shutil.copytree(RUNS, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@each
def test_a_record_has_no_system_and_is_read(name):
    found = checkpoint.find(RUNS / name)
    assert "system" not in found.record["settings"]
    assert found.phase == 0
    run = load_run(RUNS / name, "cpu")
    assert run.settings == settings(name)
    assert (run.system.name, run.step) == ("dmmd", 6)


@each
def test_its_networks_are_those_of_the_file(folder, name):
    run, found = load_run(name, "cpu"), checkpoint.find(name)
    for part in ("deep", "ema"):
        for key, value in run.state.networks[part].state_dict().items():
            assert torch.equal(value, found.tensors[f"{part}.{key}"]), key
    samples = draw_samples(run, 7)
    assert samples.shape == (7, 2)
    assert samples.isfinite().all()


@each
def test_its_whole_state_is_restored_bit_for_bit(folder, name):
    found = checkpoint.find(name)
    run = fit(settings(name), resume=True, progress=False)  # no step is left to be done
    tensors = run.state.tensors()
    assert set(tensors) == set(found.tensors)
    assert not [key for key, value in tensors.items() if not torch.equal(value, found.tensors[key])]
    assert run.step == 6


@each
def test_it_goes_on(folder, name):
    before = checkpoint.find(name)
    run = fit(settings(name).changed(steps=10), resume=True, progress=False)
    assert (run.step, digest(folder / name)[0]) == (10, 10)
    assert read_log(folder / name)[-1]["step"] == 10
    after = checkpoint.find(name)
    assert set(after.tensors) == set(before.tensors)
    steps = [value for key, value in after.tensors.items() if key.endswith(".step")]
    assert len(steps) > 4
    assert {value.item() for value in steps} == {10}
    assert after.record["settings"]["system"] == "dmmd"


@each
def test_its_config_is_read_as_a_file_and_by_resume(folder, name):
    kinds = {system.name: system.settings for system in SYSTEMS.values()}
    read = lambda *told: read_run(
        told, train.__doc__, kinds, settings_of, {name: s.defaults for name, s in SYSTEMS.items()}
    )
    assert read("--config", f"{name}/config.yaml") == (settings(name), False)
    assert read("--out", name, "--resume") == (settings(name), True)

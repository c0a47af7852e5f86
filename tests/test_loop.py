"""The loop: a run is its definition, continues bit for bit, and survives crashes."""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from dmmd_kernels import systems, train
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.loop import Interrupts
from dmmd_kernels.systems.dmmd import DMMD
from tests.cases import backends
from tests.runs import IMAGES_CHANGES, digest, fit, read_log


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
@pytest.mark.parametrize("name", [b for b in backends() if b.values != ("triton",)])
def test_a_continued_run_is_the_uninterrupted_one(tmp_path, changes, name):
    changes = changes | {"decay": "constant", "backend": name}
    fit(tmp_path / "whole", **changes)
    fit(tmp_path / "parts", steps=10, **changes)
    torch.randn(7)  # whatever else happened in between
    fit(tmp_path / "parts", resume=True, **changes)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    steps = lambda folder: [line["step"] for line in read_log(tmp_path / folder)]
    assert steps("parts") == steps("whole") == [5, 10, 15, 20]


def test_a_continued_run_on_images_is_the_uninterrupted_one(tmp_path):
    """With dropout, flips, dequantised pixels, warm-up and levels in parts."""
    pytest.importorskip("sklearn")
    changes = IMAGES_CHANGES | {"decay": "constant", "backend": "reference"}
    fit(tmp_path / "whole", steps=6, **changes)
    fit(tmp_path / "parts", steps=3, **changes)
    torch.randn(7)
    fit(tmp_path / "parts", resume=True, steps=6, **changes)
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")


def test_training_lowers_the_loss_and_the_average_follows(finished):
    found = checkpoint.find(finished)
    assert all(np.isfinite(line["loss"]) for line in read_log(finished))
    moved = {
        kind: (found.tensors[f"{kind}.width.body.4.weight"]).norm() for kind in ("deep", "ema")
    }
    assert 0 < moved["ema"] < moved["deep"]


def interrupting(at, kind):
    """DMMD, whose step `at` is interrupted by a signal."""

    def step(state, *rest):
        if state.step == at:
            os.kill(os.getpid(), kind)
        return DMMD.step(state, *rest)

    return replace(DMMD, step=step)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_saves_and_goes_on(tmp_path, monkeypatch, finished, capsys, kind):
    with monkeypatch.context() as patched:
        patched.setitem(systems.SYSTEMS, "dmmd", interrupting(7, kind))
        assert fit(tmp_path / "run") is None
    assert digest(tmp_path / "run")[0] == 8
    assert f"--out {tmp_path / 'run'} --resume" in capsys.readouterr().out
    fit(tmp_path / "run", resume=True)
    assert digest(tmp_path / "run") == digest(finished)


def test_the_second_signal_stops_at_once_and_the_handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.wanted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def _run_in_child(folder, steps):
    torch.set_num_threads(1)
    parts = {"micro_levels": 2, "warmup": 60, "optimizer": "adamw", "weight_decay": 0.1}
    fit(folder, resume=True, steps=steps, decay="constant", save_every=3, **parts)


def _start(folder, steps):
    context = multiprocessing.get_context("forkserver")
    # Imported once and inherited: the first optimiser loads torch._dynamo, which takes seconds.
    context.set_forkserver_preload(["torch._dynamo", train.__name__, __name__])
    child = context.Process(target=_run_in_child, args=(folder, steps))
    child.start()
    return child


@pytest.mark.slow
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


def test_a_new_run_sets_the_old_one_aside(tmp_path, capsys):
    fit(tmp_path / "run", steps=5)
    fit(tmp_path / "run", steps=10)
    assert digest(tmp_path / "run")[0] == 10
    assert digest(tmp_path / "run-1")[0] == 5
    assert "is now in" in capsys.readouterr().out
    fit(tmp_path / "run", steps=5)
    assert [digest(tmp_path / f"run{end}")[0] for end in ("", "-1", "-2")] == [5, 5, 10]


def test_grids_are_drawn_and_milestones_kept(tmp_path):
    pytest.importorskip("sklearn")
    fit(tmp_path, **IMAGES_CHANGES, grid_every=5, save_every=2, keep_every=4, keep=1, steps=10)
    grids = sorted(path.name for path in (tmp_path / "grids").iterdir())
    assert grids == ["step-00000005.png", "step-00000010.png"]
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000008", "step-00000010"]


def flown_off(*_, **__):
    raise FloatingPointError("particles are not finite")


def test_a_picture_that_can_not_be_drawn_stops_no_training(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setitem(systems.SYSTEMS, "dmmd", replace(DMMD, draw=flown_off))
    assert fit(tmp_path, **IMAGES_CHANGES, grid_every=1, steps=1).step == 1
    assert "no picture at step 1: particles are not finite" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["loss", "mmd2"])
def test_a_number_that_is_not_finite_ends_the_training(tmp_path, monkeypatch, name):
    told = partial(lambda step, *rest: step(*rest) | {name: float("nan")}, DMMD.step)
    monkeypatch.setitem(systems.SYSTEMS, "dmmd", replace(DMMD, step=told, remedy="wait"))
    what = "the loss" if name == "loss" else name
    with pytest.raises(FloatingPointError, match=f"train: {what} is nan at step 5; wait"):
        fit(tmp_path)

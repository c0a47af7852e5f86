"""The programs: a run is its definition, continues bit for bit, and survives crashes."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dmmd_kernels import sample, train
from dmmd_kernels.evaluation import comparison
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.run import load_run
from dmmd_kernels.systems.dmmd import samplers
from tests.cases import backends
from tests.runs import IMAGES_CHANGES, TINY, digest, fit, read_log


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
    from dmmd_kernels.networks.features import DeepKernel, MLPFeatures
    from dmmd_kernels.systems.dmmd.losses import witness_slope

    deep = DeepKernel(MLPFeatures(2, 4, 8), "linear").double()
    z, x_0 = torch.randn(1, 6, 2).double(), torch.randn(30, 2).double()
    t = torch.tensor([0.3], dtype=torch.float64)
    mean = samplers.data_features(deep, x_0, t, rows=7)
    assert mean.shape == (1, 4)
    kernel, a = deep.kernel(t), deep(z, t).detach()
    slopes = [
        witness_slope(deep, z, a, b, t, kernel, backend="reference")
        for b in (mean, deep(x_0[None], t)[0].detach())
    ]
    torch.testing.assert_close(*slopes)


def test_a_flow_of_points_is_the_flow_of_their_features(monkeypatch):
    """One call with a table of widths gives what level by level through a network gives."""
    x_0, start = torch.randn(50, 2), torch.randn(3, 20, 2)
    deep = comparison.FixedWidth(comparison.BY_HAND["linear"])
    run = lambda: [z for _, z in samplers.adaptive_flow(deep, start, x_0, TINY, [0.9, 0.5, 0.1])]
    at_once = run()
    monkeypatch.setattr(comparison.FixedWidth, "on_points", False)
    for whole, by_level in zip(at_once, run(), strict=True):
        torch.testing.assert_close(whole, by_level)


def test_nothing_is_pickled():
    folder = Path(train.__file__).parent
    words = ("pickle", "torch.load", "torch.save", "allow_pickle=True")
    names = ("train", "optimisation", "sample", "samplers", "level_data", "checkpoint")
    for name in (*names, "experiment", "comparison"):
        source = (folder / f"{name}.py").read_text()
        assert not [w for w in words if w in source.replace("Never pickle.", "")]

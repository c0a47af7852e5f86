"""Points against fresh data: DMMD beside widths by hand, any system by itself."""

import json

import numpy as np
import pytest
import torch

from dmmd_kernels import metrics
from dmmd_kernels.data import checkerboard, generator_of
from dmmd_kernels.data.batches import Stream
from dmmd_kernels.data.diffusion import levels
from dmmd_kernels.evaluation import comparison
from dmmd_kernels.evaluation.conclusion import conclude
from dmmd_kernels.systems.dmmd.level_data import LevelData
from dmmd_kernels.systems.dmmd.samplers import Step, adaptive_flow
from tests.runs import fit

METHODS = ["dmmd", "fixed_0.1", "fixed_0.5", "linear", "data"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("runs") / "finished")


def test_the_conclusion_writes_every_method(run, capsys):
    conclude(run)
    with np.load(run.folder / "samples.npz") as samples:
        shapes = {name: samples[name].shape for name in samples.files}
    assert shapes == dict.fromkeys(METHODS, (40, 2))
    assert (run.folder / "figure.png").read_bytes()[:4] == b"\x89PNG"
    scores = json.loads((run.folder / "scores.json").read_text())
    assert list(scores) == METHODS
    table = capsys.readouterr().out
    assert all(name in table for name in METHODS)


def test_all_methods_flow_from_the_same_particles_to_the_same_samples(run):
    found = comparison.compare(run)
    deep, x_0 = run.state.networks["ema"], LevelData.of(run).clean_samples()
    start = torch.randn(2, 20, 2, generator=generator_of(0, Stream.START))
    ts = levels(0.98, 0.02, 3).tolist()
    for name in ("dmmd", "fixed_0.5"):
        kernel = deep if name == "dmmd" else comparison.FixedWidth(comparison.BY_HAND[name])
        flow = adaptive_flow(kernel, start, x_0, ts, Step(1.5, True), 2, backend="reference")
        *_, (_, z) = flow
        assert torch.equal(found.samples[name], 2 * z.flatten(0, 1))
    assert found.flows.t.tolist() == pytest.approx([0.98, 0.5, 0.02])
    for curve in (*found.flows.mmd2.values(), *found.flows.sigma.values()):
        assert curve.shape == (3,)
        assert np.isfinite(curve).all()
    np.testing.assert_allclose(
        found.flows.sigma["linear"], 0.1 * (1 - found.flows.t) + 0.5 * found.flows.t
    )
    deep = run.state.networks["ema"]
    np.testing.assert_allclose(found.flows.sigma["dmmd"], deep.width(torch.tensor(found.flows.t)))


def test_a_linear_kernel_is_compared_without_widths(tmp_path):
    linear = {"kernel": "linear", "features": "mlp", "step_rule": "constant", "steps": 2}
    run = fit(tmp_path, **linear)
    found = comparison.compare(run)
    assert list(found.samples) == ["dmmd", "data"]
    assert found.flows is None
    conclude(run)
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_scores_are_means_over_fresh_data():
    x, *fresh = (checkerboard(50, torch.Generator().manual_seed(i)) for i in range(4))
    found = comparison.score(x, fresh)
    each = [metrics.energy_distance(x, y, estimator="biased") for y in fresh]
    assert found.energy == pytest.approx(sum(each) / 3)
    assert found.inside == 1
    apart = comparison.score(x + 9, fresh)
    assert apart.energy > found.energy
    assert apart.mmd2 > found.mmd2
    assert apart.inside == 0

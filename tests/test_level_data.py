"""What flows need of the data at each level: computed once, kept, and made again if it differs."""

from dataclasses import replace

import pytest
import torch

from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.data.diffusion import LinearBeta
from dmmd_kernels.runs.run import draw_samples
from dmmd_kernels.systems.dmmd import level_data
from dmmd_kernels.systems.dmmd.level_data import LevelData
from dmmd_kernels.systems.dmmd.samplers import Step
from dmmd_kernels.systems.dmmd.settings import DmmdDrawing
from tests.runs import run_with, sketch

APPROXIMATE = DmmdDrawing(method="a_dmmd")


def test_mean_features_are_means(tmp_path):
    run = sketch(tmp_path)
    data, t, x = LevelData.of(run), torch.tensor([0.3], dtype=torch.float64), run.dataset.train
    assert data.is_linear
    for noised, clouds in ((False, x), (True, data.noised_samples(0.3))):
        table = data.mean_features([0.3], noised=noised)
        torch.testing.assert_close(table, data.deep(clouds[None], t)[0].mean(0, keepdim=True))


@pytest.mark.parametrize("base", ["gaussian", "rational_quadratic"])
def test_all_features_of_the_clean_samples_are_kept(tmp_path, base):
    data, t = LevelData.of(sketch(tmp_path, base)), torch.tensor([0.3], dtype=torch.float64)
    (level,) = data.levels([0.3], Step(1.0), noised=True)
    assert level.clean.shape == level.noised.shape == (9, 6)
    for found, x in ((level.clean, data.clean_samples()), (level.noised, data.noised_samples(0.3))):
        torch.testing.assert_close(found, data.deep(x[None], t)[0])
    (alone,) = data.levels([0.3], Step(1.0), noised=False)
    assert alone.noised is None


def test_clean_samples_are_some_of_the_data_and_all_of_them_for_a_linear_kernel(tmp_path):
    few, all_of_them = (LevelData.of(sketch(tmp_path, base)) for base in ("gaussian", "linear"))
    assert torch.equal(all_of_them.clean_samples(), all_of_them.train)
    some = few.clean_samples()
    assert len(some.unique(dim=0)) == len(some) == 9
    assert (torch.cdist(some.flatten(1), few.train.flatten(1)).min(1).values == 0).all()
    assert torch.equal(some, few.clean_samples())
    assert not torch.equal(some, replace(few, seed=1).clean_samples())


def test_noise_has_the_size_of_its_level(tmp_path):
    run = sketch(tmp_path)
    zeros = Dataset(torch.zeros(2000, 1, 4, 4), 1.0)
    data = LevelData.of(run_with(run.state.networks["ema"], run.settings, tmp_path, zeros))
    beta = LinearBeta().beta(torch.tensor(0.3)).item()
    x_t = data.noised_samples(0.3)
    assert x_t.std().item() == pytest.approx(beta, rel=0.02)
    assert torch.equal(x_t, data.noised_samples(0.3))
    assert not torch.equal(x_t, data.noised_samples(0.31))


def tables(run, **changes):
    """The number of files kept after a-DMMD samples of the run with changes."""
    run = replace(run, settings=run.settings.changed(**changes))
    draw_samples(run, 5, APPROXIMATE)
    return len(list((run.folder / level_data.FOLDER).glob("*.safetensors")))


def test_tables_are_computed_once_and_again_when_anything_changes(tmp_path):
    run = sketch(tmp_path)
    assert [tables(run), tables(run), tables(run, step_size=0.1)] == [2, 2, 2]
    assert tables(run, sample_levels=2) == 4
    assert tables(run, schedule="discrete_beta") == 6
    assert tables(run, seed=1) == 8
    with torch.no_grad():
        run.state.networks["ema"].features.head.weight[0, 0] += 1
    assert tables(run) == 10
    run.dataset.train[0, 0, 0, 0] += 1
    assert tables(run) == 12


def test_a_table_is_read_back_and_a_damaged_one_is_made_again(tmp_path, monkeypatch):
    run = sketch(tmp_path)
    first = draw_samples(run, 5, APPROXIMATE)
    with monkeypatch.context() as patched:
        patched.setattr(level_data, "data_features", None)
        assert torch.equal(draw_samples(run, 5, APPROXIMATE), first)
    for path in (tmp_path / level_data.FOLDER).iterdir():
        path.write_bytes(path.read_bytes()[:-4])
    assert torch.equal(draw_samples(run, 5, APPROXIMATE), first)


def test_a_checkpoint_without_its_run_keeps_no_tables(tmp_path):
    run = sketch(tmp_path)
    (tmp_path / "checkpoints").rmdir()
    draw_samples(run, 5, APPROXIMATE)
    assert not list(tmp_path.iterdir())


def test_a_table_that_cannot_be_kept_costs_no_samples(tmp_path, capsys):
    run = sketch(tmp_path)
    (tmp_path / level_data.FOLDER).write_text("a file where the folder should be")
    assert draw_samples(run, 5, APPROXIMATE).isfinite().all()
    assert "mean features can't be kept in" in capsys.readouterr().out

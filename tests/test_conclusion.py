"""What training ends with: real digits pass the judge, noise and fits are told apart."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from dmmd_kernels import data, metrics
from dmmd_kernels.data.datasets import DATASETS
from dmmd_kernels.evaluation import conclusion, extractors
from dmmd_kernels.evaluation.figures import side_by_side
from dmmd_kernels.evaluation.judge import Judge, class_table, classes_of
from dmmd_kernels.presets import settings_of
from dmmd_kernels.systems import fit
from dmmd_kernels.systems.dmmd import DMMD
from dmmd_kernels.systems.dmmd.deep_kernel import make_kernel
from tests.runs import IMAGES_CHANGES, run_with
from tests.runs import fit as fit_tiny


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def classifier(digits):
    return metrics.train_digit_classifier(digits, steps=120)


@pytest.fixture(autouse=True)
def _trained_once(classifier, monkeypatch):
    monkeypatch.setattr(metrics, "train_digit_classifier", lambda _: classifier)


@pytest.fixture
def judge(tmp_path):
    settings = settings_of("digits").changed(out=str(tmp_path))
    dataset = DATASETS["digits"](settings.source)
    deep = make_kernel(settings.system, dataset.train.shape[1:], 0)
    run = run_with(deep, settings, tmp_path, dataset)
    return Judge(run, extractors.make("classifier", run))


def test_real_digits_score_better_than_a_normal_fit_and_that_better_than_noise(digits, judge):
    generator = torch.Generator().manual_seed(0)
    fit = conclusion.normal_fit(digits.train, judge.n, generator)
    noise = torch.randn(judge.n, 1, 8, 8, generator=generator).clamp(-1, 1)
    real, fitted, nothing = judge.floor(), judge.scores(fit), judge.scores(noise)
    for measure in ("fid", "kid", "nearest"):
        assert getattr(real, measure) < getattr(fitted, measure) < getattr(nothing, measure)
    told = [classes_of(judge.logits(x)) for x in (digits.held_out, fit)]
    assert told[0].sure > told[1].sure
    assert sum(told[0].shares) == pytest.approx(1)
    assert judge.accuracy() > 0.9


def test_a_normal_fit_looks_like_the_mean_digit_on_average(digits):
    drawn = conclusion.normal_fit(digits.train, 4000, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 1, 8, 8)
    assert drawn.abs().max() == 1
    means = torch.stack([drawn.mean(0).flatten(), digits.train.mean(0).flatten()])
    assert torch.corrcoef(means)[0, 1] > 0.99  # not equal: the cut at ±1 moves them


def test_the_table_and_the_figure_name_every_row(tmp_path, digits):
    row = classes_of(torch.eye(10))
    text = class_table({"dmmd": row, "real": row})
    assert text.count("dmmd") == text.count("real") == 1
    assert text.count("  10.0") == 20
    side_by_side(tmp_path / "figure.png", {"a": digits.train, "b": digits.held_out[:7]})
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
def test_a_run_on_digits_is_judged_to_the_end(tmp_path, kernel, capsys):
    tiny = {"steps": 1, "sample_levels": 1, "sample_steps": 1, "batch": 8, "feature_width": 2}
    settings = settings_of("digits").changed(kernel=kernel, out=str(tmp_path), **tiny)
    conclusion.conclude(fit(settings, progress=False))
    scores = json.loads((tmp_path / "scores.json").read_text())
    rows = scores["rows"]
    assert list(rows) == [*DMMD.variants, "normal fit", "real"]
    for name in DMMD.variants:
        assert rows[name]["fid"] > rows["real"]["fid"]
        assert np.load(tmp_path / "samples.npz")[name].shape == (400, 1, 8, 8)
    assert rows["normal fit"]["nfe"] is None
    assert 0.9 < scores["accuracy"] <= 1
    assert list(scores["class_shares"]) == list(rows)
    assert (tmp_path / "figure.png").exists()
    said = capsys.readouterr().out
    assert f"accuracy of the classifier on held-out digits: {scores['accuracy']:.3f}" in said


def test_other_images_are_drawn_and_left_to_the_evaluation(tmp_path, monkeypatch, capsys):
    noise = DATASETS["digits"](settings_of("digits").source)._replace(test=None)
    monkeypatch.setitem(DATASETS, "mnist", lambda _: noise)
    small = {"data": "mnist", "features": "conv", "feature_width": 2, "steps": 1}
    run = fit_tiny(tmp_path, **IMAGES_CHANGES | small)
    conclusion.conclude(run)
    with np.load(tmp_path / "samples.npz") as file:
        assert file["samples"].shape == (40, 1, 8, 8)
    assert (tmp_path / "grid.png").read_bytes()[:4] == b"\x89PNG"
    assert f"evaluate --checkpoint {tmp_path} --features inception" in capsys.readouterr().out

"""The judge of digits: real ones pass, noise and copies are told apart."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from dmmd_kernels import data, evaluate, metrics, train
from dmmd_kernels.evaluation import digit_quality, extractors
from dmmd_kernels.presets import PRESETS
from dmmd_kernels.runs.run import DATASETS, Run, make_kernel


@pytest.fixture(scope="module")
def digits():
    return data.digits()


@pytest.fixture(scope="module")
def classifier(digits):
    return metrics.train_digit_classifier(digits, steps=120)


@pytest.fixture
def judge(tmp_path, classifier, monkeypatch):
    monkeypatch.setattr(metrics, "train_digit_classifier", lambda _: classifier)
    settings = replace(PRESETS["digits"].settings, out=str(tmp_path))
    dataset = DATASETS["digits"](settings)
    run = Run(settings, tmp_path, make_kernel(settings, dataset.train.shape[1:]), dataset)
    return evaluate.Judge(run, extractors.make("classifier", run))


def test_real_digits_score_better_than_a_normal_fit_and_that_better_than_noise(digits, judge):
    generator = torch.Generator().manual_seed(0)
    fit = digit_quality.normal_fit(digits.train, judge.n, generator)
    noise = torch.randn(judge.n, 1, 8, 8, generator=generator).clamp(-1, 1)
    real, fitted, nothing = judge.floor(), judge.scores(fit), judge.scores(noise)
    for measure in ("fid", "kid", "nearest"):
        assert getattr(real, measure) < getattr(fitted, measure) < getattr(nothing, measure)
    told = [digit_quality.classes(judge.logits(x)) for x in (digits.held_out, fit)]
    assert told[0].sure > told[1].sure
    assert sum(told[0].shares) == pytest.approx(1)


def test_a_normal_fit_looks_like_the_mean_digit_on_average(digits):
    drawn = digit_quality.normal_fit(digits.train, 4000, torch.Generator().manual_seed(0))
    assert drawn.shape == (4000, 1, 8, 8)
    assert drawn.abs().max() == 1
    means = torch.stack([drawn.mean(0).flatten(), digits.train.mean(0).flatten()])
    assert torch.corrcoef(means)[0, 1] > 0.99  # not equal: the cut at ±1 moves them


def test_the_table_and_the_figure_name_every_row(tmp_path, digits):
    row = digit_quality.classes(torch.eye(10))
    text = digit_quality.class_table({"dmmd": row, "real": row}, 0.5)
    assert text.count("dmmd") == text.count("real") == 1
    assert text.count(" 0.10") == 20
    assert "0.500" in text
    digit_quality.figure(tmp_path / "figure.png", {"a": digits.train, "b": digits.held_out[:7]})
    assert (tmp_path / "figure.png").stat().st_size > 1000


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
def test_a_run_is_judged_to_the_end(tmp_path, kernel, classifier, monkeypatch):
    monkeypatch.setattr(metrics, "train_digit_classifier", lambda _: classifier)
    tiny = {"steps": 1, "sample_levels": 1, "sample_steps": 1, "batch": 8, "feature_width": 2}
    settings = replace(PRESETS["digits"].settings, kernel=kernel, out=str(tmp_path), **tiny)
    run = train.fit(settings, progress=False)
    PRESETS["digits"].evaluate(run)
    scores = json.loads((tmp_path / "scores.json").read_text())
    for name in digit_quality.TITLES:
        assert scores[name]["fid"] > scores["real"]["fid"]
        assert np.load(tmp_path / "samples.npz")[name].shape == (400, 1, 8, 8)
    assert (tmp_path / "figure.png").exists()

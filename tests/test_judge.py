"""The judge: real data pass, copies and missing classes are told, rows are means over seeds."""

import dataclasses

import pytest
import torch

from dmmd_kernels import metrics
from dmmd_kernels.evaluation import extractors
from dmmd_kernels.evaluation.judge import (
    Classes,
    Judge,
    Report,
    Scores,
    as_json,
    as_text,
    class_table,
    classes_of,
    mean,
    report,
    table,
)
from dmmd_kernels.runs.run import draw_samples
from dmmd_kernels.systems import load_run
from dmmd_kernels.systems.dmmd.settings import DmmdDrawing
from tests.runs import fit

DMMD = {"dmmd": DmmdDrawing()}
ROW = Scores(9, 2, *[1.0] * 9)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder, steps=5)
    return load_run(folder, "cpu")


def judge_of(run, n=40, logits=None):
    return Judge(run, extractors.Extractor("points", lambda x: x, logits), n)


def quadrants(x):
    return torch.stack([x[:, 0] * x[:, 1], -x[:, 0] * x[:, 1]], 1)


def test_the_shares_of_classes_are_those_of_all_seeds(run):
    judge = judge_of(run, logits=quadrants)
    found = report(run, judge, DMMD, [0, 1], progress=False)
    seen = torch.cat([draw_samples(run, 40, seed=seed) for seed in (0, 1)]).clamp(-1, 1)
    same = (seen.prod(1) > 0).double().mean().item()
    assert found.classes["dmmd"].shares == pytest.approx([same, 1 - same])
    sure = quadrants(seen).softmax(1).amax(1).mean().item()
    assert found.classes["dmmd"].sure == pytest.approx(sure)
    assert class_table(found.classes).count("\n") == 2


def test_a_report_draws_more_than_it_judges_when_asked(run):
    judge = judge_of(run)
    found = report(run, judge, DMMD, [5], count=60, progress=False)
    assert torch.equal(found.samples["dmmd"], draw_samples(run, 60, seed=5))
    assert found.scores["dmmd"] == [judge.scores(found.samples["dmmd"], 6)]
    assert found.rows["dmmd"].n == 40
    assert torch.equal(found.samples["real"], judge.real)
    assert found.classes == {}


def test_others_have_a_row_of_their_own(run):
    judge = judge_of(run)
    copies = {"copies": judge.train[:50]}
    found = report(run, judge, DMMD, [0], others=copies, progress=False)
    assert list(found.rows) == ["dmmd", "copies", "real"]
    assert found.rows["copies"] == judge.scores(judge.train[:40])
    assert found.rows["copies"].nfe is None


def test_copies_of_the_training_data_are_at_distance_zero(run):
    judge = judge_of(run, 50)
    assert judge.scores(judge.train).nearest == 0
    assert judge.floor().nearest > 0
    overlap = torch.cdist(judge.real, judge.train, compute_mode="donot_use_mm_for_euclid_dist")
    assert overlap.min() > 0, "held-out data must not be trained on"


def test_held_out_data_are_in_the_coordinates_of_the_data(run):
    judge = judge_of(run, 50)
    assert judge.real.abs().max() > 1.5, "the board has sides of 4"
    assert len(judge.real) == 50
    assert len(judge.train) == 100
    held_out = dataclasses.replace(run, dataset=run.dataset._replace(test=run.dataset.train[:30]))
    judge = judge_of(held_out, 30)
    assert torch.equal(judge.real, run.dataset.train[:30] * 2)
    assert len(judge.train) == 200


def test_the_floor_is_the_mean_of_its_draws(run):
    judge = judge_of(run, 50)
    floor, own = judge.floor(), judge.scores(judge.real)
    assert (floor.nearest, floor.nearest_quantile) == (own.nearest, own.nearest_quantile)
    assert floor.fid > 0
    assert own.fid == pytest.approx(0, abs=1e-9)


def test_images_are_cut_and_points_are_not(run):
    """What lies beyond [-1, 1] is no pixel."""
    points = judge_of(run)
    assert points.scores(points.real * 9).fid > points.scores(points.real).fid
    flat = extractors.Extractor("pixels", lambda x: x.flatten(1))
    pixels = torch.rand(60, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = dataclasses.replace(
        run, dataset=run.dataset._replace(train=pixels.sign(), scale=1.0, test=pixels.sign()[:20])
    )
    judge = Judge(images, flat, 20)
    assert judge.scores(judge.real * 9) == judge.scores(judge.real)


@pytest.mark.parametrize("n", [3, 101, 0, -1])
def test_too_few_or_too_many_data_are_refused(run, n):
    with pytest.raises(ValueError, match=f"n must be from 8 to 100, the data there are, got {n}"):
        judge_of(run, n)


def test_classes_need_a_classifier_and_labels(run):
    with pytest.raises(ValueError, match="features of points have no classes"):
        judge_of(run).logits(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="held-out data must have labels, got none"):
        judge_of(run, logits=quadrants).accuracy()


def test_accuracy_is_the_share_of_right_classes(run):
    x = run.dataset.train[:20]
    labels = (x.prod(1) < 0).long()
    labels[:5] = 1 - labels[:5]
    dataset = run.dataset._replace(test=x, test_labels=labels)
    judge = judge_of(dataclasses.replace(run, dataset=dataset), 20, quadrants)
    assert judge.accuracy() == 0.75
    assert judge_of(dataclasses.replace(run, dataset=dataset), 10, quadrants).accuracy() == 0.5


def test_a_mean_of_rows_is_that_of_each_column():
    other = ROW._replace(fid=3.0, inception_score=None)
    assert mean([ROW, other]) == ROW._replace(fid=2.0, inception_score=None)


def test_the_inception_score_is_that_of_the_logits(run):
    judge = judge_of(run, logits=quadrants)
    x = judge.real
    assert judge.scores(x).inception_score == pytest.approx(metrics.inception_score(quadrants(x)))
    assert judge_of(run).scores(x).inception_score is None


def test_tables_name_every_row():
    rows = {"dmmd": [ROW], "a_long_name_of_a_row": [ROW, ROW._replace(fid=3.0)]}
    classes = {"dmmd": Classes([0.25, 0.75], 0.5)}
    found = Report(rows, classes, {})
    text = as_text(found)
    assert all(text.count(name) >= 1 for name in rows)
    assert "fid of a_long_name_of_a_row: 1.00, 3.00" in text
    assert "fid of dmmd" not in text
    assert "25.0  75.0    0.50" in text
    assert len({len(line) for line in table(found.rows).splitlines()}) == 1, "columns stand"
    assert class_table({}) == ""
    assert as_text(Report(rows, {}, {})).count("class") == 0


def test_the_record_of_a_report_holds_all_of_it(run):
    judge = judge_of(run, logits=quadrants)
    found = report(run, judge, DMMD, [2, 3], progress=False)
    record = as_json(found, judge, [2, 3])
    assert (record["features"], record["seeds"]) == ("points", [2, 3])
    assert record["rows"]["dmmd"] == found.rows["dmmd"]._asdict()
    assert record["fid_by_seed"]["dmmd"] == [row.fid for row in found.scores["dmmd"]]
    assert record["class_shares"]["real"] == found.classes["real"].shares
    assert record["sure"]["dmmd"] == found.classes["dmmd"].sure


def test_a_classifier_is_sure_of_clear_logits_alone():
    shares, sure = classes_of(torch.eye(10) * 50)
    assert shares == pytest.approx([0.1] * 10)
    assert sure == pytest.approx(1)
    assert classes_of(torch.zeros(4, 5)).sure == pytest.approx(0.2)

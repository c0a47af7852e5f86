"""The evaluation: real data pass, copies and missing things are told, ablations write files."""

import dataclasses
import json

import pytest
import torch

from dmmd_kernels import evaluate, metrics
from dmmd_kernels.data import images
from dmmd_kernels.evaluation import ablations, extractors
from dmmd_kernels.runs.run import load_run
from dmmd_kernels.sample import draw_samples
from tests.runs import fit


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder, steps=5)
    return folder


def main(finished, out, *arguments):
    usual = ["--checkpoint", str(finished), "--out", str(out), "--backend", "reference"]
    evaluate.main([*usual, *arguments])
    return {path.name: path for path in out.iterdir()}


def test_precision_and_recall_are_those_of_all_distances():
    x, y = torch.randn(40, 3).double(), torch.randn(30, 3).double() + 0.7

    def share(z, cloud):
        radius = torch.cdist(cloud, cloud).sort(1).values[:, 2]
        return (torch.cdist(z, cloud) <= radius).any(1).double().mean().item()

    got = metrics.precision_recall(x, y, k=2, rows=7)
    assert 0 < got.precision < 1
    assert got == (share(x, y), share(y, x))


def test_precision_and_recall_at_their_ends():
    x = torch.randn(20, 4)
    assert metrics.precision_recall(x, x) == (1, 1)
    assert metrics.precision_recall(x, x + 100) == (0, 0)
    with pytest.raises(ValueError, match="more than k = 3 >= 1 points, got 20 and 3"):
        metrics.precision_recall(x, x[:3])


def test_a_mode_that_is_missing_costs_recall_alone():
    y = torch.cat([torch.randn(50, 2), torch.randn(50, 2) + 50])
    precision, recall = metrics.precision_recall(y[:50:2] + 1e-4, y)
    assert precision == 1
    assert 0.3 < recall <= 0.5


def test_nearest_names_the_datum():
    data = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 9.0]])
    distance, place = metrics.nearest(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), data, rows=1)
    assert (distance.tolist(), place.tolist()) == ([4.0, 0.0], [1, 0])


def test_the_report_has_a_row_for_each_method_and_the_floor(finished, tmp_path, capsys):
    found = main(finished, tmp_path, "--n", "40")
    rows = json.loads(found["scores.json"].read_text())["rows"]
    assert list(rows) == ["dmmd", "dmmd_e", "a_dmmd", "a_dmmd_a", "a_dmmd_e", "real"]
    assert rows["real"]["fid"] < min(row["fid"] for name, row in rows.items() if name != "real")
    assert [rows[name]["nfe"] for name in ("dmmd", "a_dmmd_e")] == [6, 8]
    assert "nearest" in capsys.readouterr().out


def test_a_report_of_several_seeds_is_their_mean(finished, tmp_path, capsys):
    found = main(finished, tmp_path, "--n", "40", "--seeds", "2", "--method", "a_dmmd_e")
    record = json.loads(found["scores.json"].read_text())
    run = load_run(finished, "cpu")
    judge = evaluate.Judge(run, extractors.make("pixels", run), 40)
    drawn = [draw_samples(run, 40, method="a_dmmd_e", seed=seed) for seed in (0, 1)]
    each = [judge.scores(samples).fid for samples in drawn]
    assert record["fid_by_seed"]["a_dmmd_e"] == each
    assert record["rows"]["a_dmmd_e"]["fid"] == pytest.approx(sum(each) / 2)
    assert "fid of a_dmmd_e: " + ", ".join(f"{fid:.2f}" for fid in each) in capsys.readouterr().out


def test_the_shares_of_classes_are_those_of_all_seeds(finished):
    run = load_run(finished, "cpu")
    quadrant = lambda x: torch.stack([x[:, 0] * x[:, 1], -x[:, 0] * x[:, 1]], 1)
    judge = evaluate.Judge(run, extractors.Extractor("signs", lambda x: x, quadrant), 40)
    chosen = evaluate.parser().parse_args(["--checkpoint", "x"])
    found = evaluate.report(run, judge, ["dmmd"], [0, 1], chosen)
    seen = torch.cat([draw_samples(run, 40, seed=seed) for seed in (0, 1)]).clamp(-1, 1)
    same = (seen.prod(1) > 0).double().mean().item()
    assert found.shares["dmmd"] == pytest.approx([same, 1 - same])
    assert evaluate.class_table(found.shares).count("\n") == 2


def test_copies_of_the_training_data_are_at_distance_zero(finished):
    run = load_run(finished, "cpu")
    judge = evaluate.Judge(run, extractors.make("pixels", run), 50)
    assert judge.scores(judge.train).nearest == 0
    assert judge.floor().nearest > 0
    overlap = torch.cdist(judge.real, judge.train, compute_mode="donot_use_mm_for_euclid_dist")
    assert overlap.min() > 0, "held-out data must not be trained on"


@pytest.mark.parametrize("name", ["particles", "nfe", "kernel", "denoising"])
def test_an_ablation_writes_a_table_and_a_figure(finished, tmp_path, monkeypatch, name):
    monkeypatch.setattr(ablations, "PARTICLES", (4, 20))
    monkeypatch.setattr(ablations, "STEPS", (1, 2))
    monkeypatch.setattr(ablations, "FINAL_RATES", (1.0, 1e300))
    monkeypatch.setattr(ablations, "KERNEL_RATES", (1.0, 1e300))
    found = main(finished, tmp_path, "--n", "20", "--seeds", "2", "--ablation", name)
    assert set(found) == {f"{name}.{kind}" for kind in ("json", "txt", "png")}
    record = json.loads(found[f"{name}.json"].read_text())
    assert all(len(rows) == 2 for curve in record["points"].values() for _, rows in curve)
    assert "real" in found[f"{name}.txt"].read_text()


def test_the_best_point_is_chosen_on_the_first_seed_and_judged_on_the_others():
    row = evaluate.Scores(9, 2, *[1.0] * 9)
    by_seed = lambda *fids: [row._replace(fid=fid) for fid in fids]
    curve = [(1.0, by_seed(3.0, 1.0, 1.0)), (2.0, by_seed(2.0, 5.0, 7.0)), (3.0, [None] * 3)]
    rows = ablations.summary({"dmmd_e": curve}, choose=True)
    assert {name: found.fid for name, found in rows.items()} == {"dmmd_e 2": 6.0}
    assert len(ablations.summary({"dmmd_e": curve}, choose=False)) == 2
    assert ablations.summary({"dmmd_e": curve[2:]}, choose=True) == {}


def test_particles_that_fly_off_end_the_program_with_a_sentence(finished, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(finished, tmp_path, "--n", "20", "--method", "dmmd", "--step_size", "1e300")
    assert end.value.code == 1
    assert "particles are not finite after level" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (["--features", "inception"], "features=inception needs images, got checkerboard"),
        (["--features", "classifier"], "features=classifier is for digits"),
        (["--n", "3"], "n must be from 8 to 100, the data there are, got 3"),
        (["--nfe", "7"], "nfe must be a multiple of the 3 levels"),
        (["--checkpoint", "nowhere"], "several --checkpoint are for --ablation kernel or training"),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_a_sentence(finished, tmp_path, wrong, text, capsys):
    with pytest.raises(SystemExit):
        main(finished, tmp_path, *wrong)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("name", ["inception", "clip"])
def test_networks_are_never_downloaded(finished, tmp_path, name):
    run = load_run(finished, "cpu")
    dataset = run.dataset._replace(train=torch.zeros(9, 1, 4, 4))
    with pytest.raises(extractors.ExtractorError, match=r"needs --weights PATH.*nothing is down"):
        extractors.make(name, type(run)(run.settings, run.folder, run.deep, dataset))


def test_random_features_tell_patches_from_their_pixels_in_disorder(finished):
    pytest.importorskip("sklearn")
    run = load_run(finished, "cpu")
    patches = images.patches(16, 200, 200, seed=1).train
    run = dataclasses.replace(run, dataset=run.dataset._replace(train=patches))
    features = extractors.make("random", run).features
    order = torch.randperm(16 * 16)
    mixed = patches[100:].flatten(2)[..., order].unflatten(2, (16, 16))
    assert features(patches).shape == (200, 39)
    near, far = (metrics.fid(features(patches[:100]), features(x)) for x in (patches[100:], mixed))
    assert far > 2 * near


def test_the_point_of_a_checkpoint_is_its_step(finished, tmp_path):
    found = main(finished, tmp_path, "--n", "20", "--seeds", "1", "--ablation", "training")
    record = json.loads(found["training.json"].read_text())
    assert [place for place, _ in record["points"]["dmmd"]] == [5]

"""The evaluation program: a row for each method, and sentences for what it cannot do."""

import json

import pytest

from dmmd_kernels import evaluate
from dmmd_kernels.evaluation import extractors
from dmmd_kernels.evaluation.judge import Judge
from dmmd_kernels.runs.run import draw_samples
from dmmd_kernels.runs.settings import options
from dmmd_kernels.systems import SYSTEMS, load_run
from dmmd_kernels.systems.dmmd import DMMD
from dmmd_kernels.systems.dmmd.settings import DmmdDrawing
from tests.runs import IMAGES_CHANGES, fit


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder, steps=5)
    return folder


def main(finished, out, *arguments):
    usual = ["--checkpoint", str(finished), "--out", str(out), "--backend", "reference"]
    status = evaluate.main([*usual, *arguments])
    assert status == 0
    return {path.name: path for path in out.iterdir()}


def test_the_report_has_a_row_for_each_method_and_the_floor(finished, tmp_path, capsys):
    found = main(finished, tmp_path, "--n", "40")
    rows = json.loads(found["scores.json"].read_text())["rows"]
    assert list(rows) == ["dmmd", "dmmd_e", "a_dmmd", "a_dmmd_a", "a_dmmd_e", "real"]
    assert rows["real"]["fid"] < min(row["fid"] for name, row in rows.items() if name != "real")
    assert [rows[name]["nfe"] for name in ("dmmd", "a_dmmd_e")] == [6, 8]
    assert "nearest" in capsys.readouterr().out
    assert set(found) == {"scores.json"}, "points have no pictures"


def test_images_are_pictured_beside_the_nearest_training_image(tmp_path):
    pytest.importorskip("sklearn")
    small = {"features": "conv", "feature_width": 2, "steps": 1}
    fit(tmp_path / "run", **IMAGES_CHANGES | small)
    told = ["--checkpoint", str(tmp_path / "run"), "--n=9", "--features=pixels", "--method=dmmd"]
    assert evaluate.main(told) == 0
    folder = tmp_path / "run" / "evaluation"
    assert (folder / "samples.png").read_bytes()[:4] == b"\x89PNG"
    assert list(json.loads((folder / "scores.json").read_text())["rows"]) == ["dmmd", "real"]


def test_a_report_of_several_seeds_is_their_mean(finished, tmp_path, capsys):
    told = ["--n", "40", "--seed", "3", "--seeds", "2", "--method", "a_dmmd_e", "--steps", "1"]
    record = json.loads(main(finished, tmp_path, *told)["scores.json"].read_text())
    run = load_run(finished, "cpu")
    judge = Judge(run, extractors.make("pixels", run), 40)
    drawing = DmmdDrawing(method="a_dmmd_e", steps=1)
    drawn = [draw_samples(run, 40, drawing, seed=seed) for seed in (3, 4)]
    each = [judge.scores(samples).fid for samples in drawn]
    assert record["seeds"] == [3, 4]
    assert record["fid_by_seed"]["a_dmmd_e"] == each
    assert record["rows"]["a_dmmd_e"]["fid"] == pytest.approx(sum(each) / 2)
    assert record["rows"]["a_dmmd_e"]["nfe"] == 5
    assert "fid of a_dmmd_e: " + ", ".join(f"{fid:.2f}" for fid in each) in capsys.readouterr().out


def test_what_is_asked_for_picks_the_rows_and_shapes_them():
    found = evaluate.drawings_of(DMMD, {"method": "dmmd_e", "steps": 3})
    assert found == {"dmmd_e": DmmdDrawing(method="dmmd_e", steps=3)}
    assert evaluate.drawings_of(DMMD, {}) == DMMD.variants
    every = evaluate.drawings_of(DMMD, {"levels": 2})
    assert list(every) == list(DMMD.variants)
    assert {drawing.levels for drawing in every.values()} == {2}


@pytest.mark.parametrize("name", SYSTEMS)
def test_variants_are_drawings_of_their_system(name):
    system = SYSTEMS[name]
    assert system.variants
    assert all(type(drawing) is system.drawing for drawing in system.variants.values())
    assert all(option.default is None for option in options(system.drawing))


def test_particles_that_fly_off_end_the_program_with_a_sentence(finished, tmp_path, capsys):
    usual = ["--checkpoint", str(finished), "--out", str(tmp_path)]
    flying = ["--n", "20", "--method", "dmmd", "--step_size", "1e300"]
    assert evaluate.main([*usual, *flying]) == 1
    assert "particles are not finite after level" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (["--features", "inception"], "features=inception needs images, got checkerboard"),
        (["--features", "classifier"], "features=classifier is for digits"),
        (["--features", "eyes"], "--features"),
        (["--n", "3"], "n must be from 8 to 100, the data there are, got 3"),
        (["--nfe", "7"], "nfe must be a multiple of the 3 levels"),
        (["--method", "ddpm"], "--method must be one of dmmd, dmmd_e, a_dmmd, a_dmmd_a, a_dmmd_e"),
        (["--stepz", "7"], "there is no option --stepz; did you mean --steps?"),
        (["--checkpoint", "nowhere"], "several --checkpoint are for --ablation kernel or training"),
        (["--ablation", "training", "--checkpoint", "nowhere"], "nowhere holds no checkpoint"),
    ],
    ids=str,
)
def test_what_cannot_be_evaluated_is_said_in_a_sentence(finished, tmp_path, wrong, text, capsys):
    with pytest.raises(SystemExit) as ended:
        main(finished, tmp_path, *wrong)
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert text in said
    assert said.startswith("python -m dmmd_kernels.evaluate: error: ")

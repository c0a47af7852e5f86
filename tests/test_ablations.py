"""Ablations write a table and a figure, and choose on one seed what they judge on others."""

import json
from dataclasses import replace

import pytest

from dmmd_kernels import evaluate
from dmmd_kernels.evaluation import ablations
from dmmd_kernels.evaluation.judge import Scores
from dmmd_kernels.runs.settings import Settings, SettingsError, SystemSettings
from dmmd_kernels.systems import load_run
from dmmd_kernels.systems.dmmd.settings import DmmdDrawing
from tests.runs import fit


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder, steps=5)
    return folder


@pytest.fixture(autouse=True)
def _few_places(monkeypatch):
    monkeypatch.setattr(ablations, "PARTICLES", (4, 20))
    monkeypatch.setattr(ablations, "STEPS", (1, 2))
    monkeypatch.setattr(ablations, "FINAL_RATES", (1.0, 1e300))
    monkeypatch.setattr(ablations, "KERNEL_RATES", (1.0, 1e300))


def main(finished, out, *arguments):
    usual = ["--checkpoint", str(finished), "--out", str(out), "--backend", "reference"]
    assert evaluate.main([*usual, "--n", "20", *arguments]) == 0
    return {path.name: path for path in out.iterdir()}


@pytest.mark.parametrize("name", ["particles", "nfe", "kernel", "denoising"])
def test_an_ablation_writes_a_table_and_a_figure(finished, tmp_path, name):
    found = main(finished, tmp_path, "--seeds", "2", "--ablation", name)
    assert set(found) == {f"{name}.{kind}" for kind in ("json", "txt", "png")}
    record = json.loads(found[f"{name}.json"].read_text())
    assert all(len(rows) == 2 for curve in record["points"].values() for _, rows in curve)
    assert "real" in found[f"{name}.txt"].read_text()
    assert record["seeds"] == [0, 1]
    gone = [rows for curve in record["points"].values() for _, rows in curve if None in rows]
    assert bool(gone) == (name in ("kernel", "denoising")), "particles fly off at the last rate"


def test_the_last_steps_are_those_of_the_methods(finished, tmp_path):
    """The ablation shares the way to them; the points are what the methods draw."""
    record = json.loads(
        main(finished, tmp_path, "--seeds", "1", "--ablation", "denoising")[
            "denoising.json"
        ].read_text()
    )
    run = load_run(finished, "cpu")
    c = run.settings.system.step_size
    points = record["points"]
    assert list(points) == ["dmmd", "dmmd_e", "a_dmmd", "a_dmmd_a", "a_dmmd_e"]
    found = main(finished, tmp_path / "plain", "--eta_final", str(c))
    rows = json.loads(found["scores.json"].read_text())["rows"]
    for name, curve in points.items():
        place, (row,) = curve[0]
        assert place == (c if name[-2:] in ("_e", "_a") else 0)
        assert row == rows[name]


def test_the_point_of_a_checkpoint_is_its_step(finished, tmp_path):
    found = main(finished, tmp_path, "--seeds", "1", "--ablation", "training")
    record = json.loads(found["training.json"].read_text())
    assert [place for place, _ in record["points"]["dmmd"]] == [5]


def test_equal_ways_have_steps_that_shorten(finished, tmp_path, monkeypatch):
    """At η N_s held, c is that of the method times its N_s over the count."""
    asked = []

    def noted(task, run, **drawing):
        asked.append(drawing)
        return [None]

    monkeypatch.setattr(ablations, "_judged", noted)
    run = load_run(finished, "cpu")
    task = ablations.Task([run], None, DmmdDrawing(), [0])
    found = ablations.nfe(task)
    assert list(found) == ["dmmd", "dmmd, η ∝ 1/N_s", "a_dmmd", "a_dmmd, η ∝ 1/N_s"]
    got = [(drawing["method"], drawing["steps"], drawing["step_size"]) for drawing in asked]
    c, a = 1.5, 1.5 / 4
    wanted = [("dmmd", 1, c), ("dmmd", 2, c), ("dmmd", 1, 2 * c), ("dmmd", 2, c)]
    wanted += [("a_dmmd", 1, a), ("a_dmmd", 2, a), ("a_dmmd", 1, 2 * a), ("a_dmmd", 2, a)]
    assert got == wanted
    assert [place for place, _ in found["dmmd"]] == [3, 6]


def test_the_best_point_is_chosen_on_the_first_seed_and_judged_on_the_others():
    row = Scores(9, 2, *[1.0] * 9)
    by_seed = lambda *fids: [row._replace(fid=fid) for fid in fids]
    curve = [(1.0, by_seed(3.0, 1.0, 1.0)), (2.0, by_seed(2.0, 5.0, 7.0)), (3.0, [None] * 3)]
    rows = ablations.summary({"dmmd_e": curve}, choose=True)
    assert {name: found.fid for name, found in rows.items()} == {"dmmd_e 2": 6.0}
    assert len(ablations.summary({"dmmd_e": curve}, choose=False)) == 2
    assert ablations.summary({"dmmd_e": curve[2:]}, choose=True) == {}


def test_runs_of_other_systems_have_no_ablations(finished, tmp_path):
    run = load_run(finished, "cpu")
    system = replace(run.system, name="other")
    other = replace(run, system=system, settings=Settings(system=SystemSettings()))
    with pytest.raises(SettingsError, match="--ablation is for runs of dmmd, got one of other"):
        ablations.write(tmp_path, "nfe", ablations.Task([run, other], None, DmmdDrawing(), [0]))

"""The programs train and sample, from the command line to the files they leave."""

import numpy as np
import pytest
import torch

from dmmd_kernels import sample, systems, train
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.command_line import as_yaml
from dmmd_kernels.runs.run import draw_samples
from dmmd_kernels.systems import load_run
from tests.runs import TINY, digest, fit


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    fit(folder)
    return folder


def test_the_program_trains_judges_and_goes_on(tmp_path, capsys, finished):
    (tmp_path / "tiny.yaml").write_text(as_yaml(TINY.changed(decay="constant")))
    out = ["--out", str(tmp_path / "run")]
    assert train.main(["--config", str(tmp_path / "tiny.yaml"), *out, "--steps=10"]) == 0
    files = {path.name for path in (tmp_path / "run").glob("[!.]*")}
    made = {"checkpoints", "config.yaml", "log.jsonl", "training.png"}
    assert files == made | {"samples.npz", "scores.json", "figure.png"}
    assert train.main([*out, "--resume", "--steps=20"]) == 0
    assert digest(tmp_path / "run")[0] == 20
    assert "continuing" in capsys.readouterr().out
    assert not (tmp_path / "run-1").exists()


def test_what_a_user_can_mend_is_one_sentence_and_a_status(tmp_path, capsys, finished):
    assert train.main(["--out", str(finished), "--resume", "--batch=9"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "batch is 9, the run to be continued has 8" in said


def test_a_run_stopped_by_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "fit", lambda *_, **__: None)
    assert train.main([f"--out={tmp_path}"]) == 130
    monkeypatch.setattr(train, "conclude", interrupted)
    monkeypatch.setattr(train, "training_figure", lambda _: None)
    run = systems.fit(TINY.changed(out=str(tmp_path), steps=1), progress=False)
    monkeypatch.setattr(train, "fit", lambda *_, **__: run)
    assert train.main([f"--out={tmp_path}"]) == 130
    assert f"--out {tmp_path} --resume" in capsys.readouterr().err


def interrupted(_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [".npz", ".png"])
def test_samples_come_from_any_checkpoint(tmp_path, finished, kind):
    older = min((finished / "checkpoints").iterdir())
    out = tmp_path / "new" / f"samples{kind}"
    usual = ["--checkpoint", str(older), "--backend", "reference"]
    assert sample.main([*usual, "--n", "33", "--out", str(out)]) == 0
    if kind == ".npz":
        with np.load(out) as file:
            assert file["samples"].shape == (33, 2)
            assert np.isfinite(file["samples"]).all()
    else:
        assert out.read_bytes()[:4] == b"\x89PNG"


def test_the_program_draws_what_the_function_draws(tmp_path, finished):
    out = tmp_path / "x.npz"
    usual = ["--checkpoint", str(finished), "--out", str(out), "--device=cpu"]
    sample.main([*usual, "--n=9", "--seed=4", "--method=a_dmmd", "--levels=2", "--steps=1"])
    run = load_run(finished, "cpu")
    drawing = run.system.drawing(method="a_dmmd", levels=2, steps=1)
    with np.load(out) as file:
        assert np.array_equal(file["samples"], draw_samples(run, 9, drawing, seed=4).numpy())


def test_sampling_depends_on_its_seed_alone(finished):
    run = load_run(finished, "cpu")
    first, again, other = (draw_samples(run, 20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


WRONG = {
    "--n 0": "--n must be at least 1, got 0",
    "--out x.txt": "--out must end in .npz or .png, got x.txt",
    "--checkpoint nowhere": "nowhere holds no checkpoint",
    "--trajectory x.png": "--trajectory must end in .gif, got x.png",
    "--method ddpm": "--method must be one of dmmd, dmmd_e, a_dmmd, a_dmmd_a, a_dmmd_e, got 'ddpm'",
    "--nfe 7": "nfe must be a multiple of the 3 levels",
    "--nfe 6 --steps 2": "nfe must be a multiple of the 3 levels, without --steps; got 6 and 2",
    "--rows 0": "rows must be at least 1, got 0",
    "--t_max 0.01": "t_max must be at least t_min = 0.02, got 0.01",
    "--energy_below 0.5": "energy_below must be 0 without a feature network, got 0.5",
    "--stepz 3": "there is no option --stepz; did you mean --steps?",
    "--backend cuda": "--backend",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_sampling_refuses_what_it_cannot_do(tmp_path, finished, wrong, capsys):
    usual = ["--checkpoint", str(finished), "--out", str(tmp_path / "x.npz")]
    with pytest.raises(SystemExit) as ended:
        sample.main(usual + wrong.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert WRONG[wrong] in said
    assert "python -m dmmd_kernels.sample: error: " in said
    assert "Literal" not in said
    assert not list(tmp_path.iterdir())


def test_the_program_takes_methods_and_evaluations(tmp_path, finished, capsys):
    usual = ["--checkpoint", str(finished), "--n", "7", "--out", str(tmp_path / "x.npz")]
    film = ["--trajectory", str(tmp_path / "x.gif")]
    sample.main([*usual, *film, "--method", "a_dmmd_e", "--nfe", "12", "--step_size", "0.1"])
    assert "7 samples of a_dmmd_e, 14 evaluations each" in capsys.readouterr().out
    assert (tmp_path / "x.gif").read_bytes()[:3] == b"GIF"


def test_samples_that_fly_off_end_the_program_with_a_sentence(tmp_path, finished, capsys):
    usual = ["--checkpoint", str(finished), "--n", "7", "--out", str(tmp_path / "x.npz")]
    assert sample.main([*usual, "--step_size", "1e300"]) == 1
    said = capsys.readouterr().err
    assert "particles are not finite after level t = 0.980; take a smaller step_size" in said
    assert not list(tmp_path.iterdir())


def test_a_moved_checkpoint_is_found_by_its_files(tmp_path, finished):
    place = checkpoint.find(finished).path
    run = load_run(place / checkpoint.RECORD, "cpu")
    assert run.step == 20
    assert run.folder == finished

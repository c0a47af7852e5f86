"""The log of a run, and its copies for TensorBoard and Weights & Biases."""

import sys

import pytest

from dmmd_kernels.evaluation.curves import training_figure
from dmmd_kernels.runs.tracking import Log
from tests.runs import TINY, fit, read_log


def test_every_line_says_what_it_should(tmp_path):
    fit(tmp_path, decay="constant", warmup=9, steps=10)
    first, last = read_log(tmp_path)
    parts = {"loss", "mmd2", "feature_norm", "gradient_penalty"}
    assert parts | {"step", "learning_rate", "images_per_second", "seconds"} <= set(first)
    assert (first["learning_rate"], last["learning_rate"]) == pytest.approx((5e-3, 1e-2))
    assert first["images_per_second"] > 0
    by_level = [value for name, value in last.items() if name.startswith("mmd2/")]
    assert len(by_level) == 3  # levels, one in each third of the range
    assert sum(by_level) / 3 == pytest.approx(last["mmd2"])


def test_the_curves_of_a_log_are_drawn(tmp_path):
    fit(tmp_path, steps=10)
    assert training_figure(tmp_path).read_bytes()[:4] == b"\x89PNG"
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="must have a line, got none"):
        training_figure(tmp_path)


def test_a_log_that_goes_on_drops_what_it_writes_again(tmp_path):
    settings = TINY.changed(out=str(tmp_path))
    line = lambda step: f'{{"step": {step}, "loss": 1.0}}\n'
    (tmp_path / "log.jsonl").write_text(line(5) + line(10) + line(15) + '{"step": 20, "lo')
    log = Log(settings, 10)
    log.write(15, {"loss": 2.0, "other": 3}, seen=0)
    log.file.close()
    found = read_log(tmp_path)
    assert [line["step"] for line in found] == [5, 10, 15]
    assert {"loss": 2.0, "other": 3.0}.items() <= found[-1].items()
    assert "images_per_second" not in found[-1], "nothing went through a network"


@pytest.mark.parametrize("library", ["tensorboard", "wandb"])
def test_a_missing_library_is_said_in_a_sentence(tmp_path, monkeypatch, library):
    name = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}[library]
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"{library}=true needs the library; .*pip install"):
        fit(tmp_path, **{library: True})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_numbers_of_the_log(tmp_path):
    pytest.importorskip("tensorboard", reason="the library tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("mmd2")}
    assert found == pytest.approx({line["step"]: line["mmd2"] for line in read_log(tmp_path)})


@pytest.mark.filterwarnings("ignore")
def test_a_run_of_weights_and_biases_goes_on_as_itself(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the library wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    fit(tmp_path, wandb=True, steps=5, decay="constant")
    named = (tmp_path / "wandb.id").read_text()
    fit(tmp_path, wandb=True, steps=10, decay="constant", resume=True)
    assert (tmp_path / "wandb.id").read_text() == named
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(runs) == 2
    assert all(name.endswith(named) for name in runs)

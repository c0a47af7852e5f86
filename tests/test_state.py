"""The state of a training with all that one can have: networks, optimisers, pools, phases.

A small system, made up here, goes through the loop that trains the real ones.
"""

from dataclasses import dataclass
from typing import Annotated

import pytest
import torch
from safetensors.torch import save as to_bytes
from torch import nn

from dmmd_kernels.data.batches import Stream, generator_of
from dmmd_kernels.runs import checkpoint, loop, run
from dmmd_kernels.runs.checkpoint import CheckpointError
from dmmd_kernels.runs.optimiser import set_rate, update_average
from dmmd_kernels.runs.settings import Checked, Settings, SystemSettings
from dmmd_kernels.runs.state import Follower, State
from dmmd_kernels.runs.system import System, one_by_one
from tests.runs import digest, forge, read_log

GROWS_AT = 4  # the step at which phase 1 begins and brings a network


@dataclass(frozen=True, kw_only=True)
class MadeUpSettings(SystemSettings):
    """Made up"""

    name = "made_up"
    pool: Annotated[int, "particles"] = 6


class Critic(nn.Module):
    """With a buffer of whole numbers, a frozen parameter, and one that no gradient reaches."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.body(x)


def grow(state):
    """Phase 1: another network and its optimiser."""
    state.phase = 1
    state.networks["student"] = student = nn.Linear(2, 2)
    state.followers["student_adam"] = Follower("student", torch.optim.Adam(student.parameters()))


def build(settings, dataset, phase=0):
    critic, generator, average = Critic(), nn.Linear(2, 2), nn.Linear(2, 2)
    average.load_state_dict(generator.state_dict())
    followers = {
        "critic_adam": Follower("critic", torch.optim.AdamW(critic.parameters(), lr=0.1)),
        "generator_adam": Follower("generator", torch.optim.Adam(generator.parameters(), lr=0.1)),
    }
    networks = {"critic": critic, "generator": generator, "average": average}
    pool = torch.zeros(settings.system.pool, 2)
    state = State(networks, followers, {"particles": pool})
    if phase:
        grow(state)
    return state


def step(state, settings, dataset):
    generator = generator_of(settings.seed, Stream.TRAINING, state.step)
    if state.step == GROWS_AT:
        grow(state)
    noise = torch.randn(settings.batch, 2, generator=generator) + torch.randn(2)  # global, too
    fake = state.networks["generator"](noise)
    if state.phase:
        fake = fake + state.networks["student"](noise)
    loss = state.networks["critic"](dataset.train[: settings.batch]).mean()
    loss = loss - state.networks["critic"](fake).mean()
    for _, optimizer in state.followers.values():
        optimizer.zero_grad()
    loss.backward()
    for _, optimizer in state.followers.values():
        set_rate(optimizer, 0.1 / (1 + state.step))
        optimizer.step()
    update_average(state.networks["average"], state.networks["generator"], 0.9)
    state.pools["particles"] = torch.cat([fake.detach(), state.pools["particles"]])[
        : settings.system.pool
    ]
    state.step += 1
    state.seen += settings.batch
    return {"loss": loss.detach(), "phase": float(state.phase)}


def draw(run, n, drawing, *, seed, progress, on_state):
    return run.state.pools["particles"][:n] @ run.state.networks["average"].weight.T


MADE_UP = System(
    name="made_up",
    title="made up",
    settings=MadeUpSettings,
    drawing=Checked,
    build=build,
    step=step,
    draw=draw,
    draw_each=one_by_one(draw),
    evaluations=lambda settings, drawing: 1,
    defaults={"checkerboard": {}},
    variants={"made_up": Checked()},
)
SETTINGS = Settings(
    data_size=50, batch=4, steps=8, log_every=2, save_every=1, keep=9, system=MadeUpSettings()
)


def fit(folder, *, resume=False, **changes):
    return loop.fit(
        MADE_UP, SETTINGS.changed(out=str(folder), **changes), resume=resume, progress=False
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    torch.manual_seed(5)
    return fit(tmp_path_factory.mktemp("runs") / "whole")


@pytest.mark.parametrize("stops", [[1], [3], [4], [5, 6]], ids=str)
def test_it_is_saved_and_restored_bit_for_bit(tmp_path, whole, stops):
    fit(tmp_path, steps=stops[0])
    for steps in (*stops[1:], 8):
        torch.randn(7)
        run = fit(tmp_path, resume=True, steps=steps)
    assert digest(tmp_path) == digest(whole.folder)
    found, wanted = run.state.tensors(), whole.state.tensors()
    assert set(found) == set(wanted)
    assert not [name for name in found if not torch.equal(found[name], wanted[name])]
    assert run.state.phase == 1
    assert [line["loss"] for line in read_log(tmp_path)][-1] == read_log(whole.folder)[-1]["loss"]


def test_every_part_has_changed_and_has_its_name(whole):
    tensors = whole.state.tensors()
    for name in ("generator.weight", "average.weight", "student.weight", "pool.particles"):
        assert tensors[name].abs().max() > 0
    assert tensors["critic.body.1.num_batches_tracked"] == 16
    assert tensors["generator_adam.weight.step"] == 8
    assert tensors["student_adam.weight.step"] == 8 - GROWS_AT
    assert {"critic.frozen", "critic.unused"} <= set(tensors)
    still = [f"critic_adam.{name}.exp_avg" for name in ("frozen", "unused")]
    assert not set(still) & set(tensors), "no gradient, no moments"
    assert tensors["random"].dtype == torch.uint8


def test_a_parameter_without_a_gradient_stays_without_moments(tmp_path):
    fit(tmp_path, steps=2)
    run = fit(tmp_path, resume=True, steps=2)
    critic, optimizer = run.state.networks["critic"], run.state.followers["critic_adam"].optimizer
    kept = {name for name, p in critic.named_parameters() if optimizer.state.get(p)}
    assert kept == {name for name, _ in critic.named_parameters()} - {"frozen", "unused"}


def test_the_phase_stands_in_the_record_and_builds_its_networks(whole):
    folder = whole.folder / "checkpoints"
    phases = [checkpoint.load(place).phase for place in sorted(folder.iterdir())]
    assert phases == [0] * GROWS_AT + [1] * (8 - GROWS_AT)
    early, late = (
        run.load(folder / f"step-{step:08d}", {"made_up": MADE_UP}, "cpu") for step in (GROWS_AT, 8)
    )
    assert "student" not in early.state.networks
    assert torch.equal(
        late.state.networks["student"].weight, whole.state.networks["student"].weight
    )
    assert late.state.phase == 1


def test_samples_of_a_loaded_run_are_those_of_the_trained_one(whole):
    loaded = run.load(whole.folder, {"made_up": MADE_UP}, "cpu")
    assert torch.equal(run.draw_samples(loaded, 5), run.draw_samples(whole, 5))
    assert not any(p.requires_grad for n in loaded.state.networks.values() for p in n.parameters())
    assert not loaded.state.networks["critic"].training


WRONG = {
    "critic.body.0.weight": torch.zeros(4, 3),
    "critic.body.1.num_batches_tracked": torch.zeros(()),
    "average.bias": torch.zeros(2, dtype=torch.float64),
    "student.weight": torch.zeros(0, 2),
    "pool.particles": torch.zeros(5, 2),
    "generator_adam.weight.exp_avg": torch.zeros(2),
    "student_adam.bias.step": torch.zeros(1),
    "critic_adam.body.0.bias.exp_avg_sq": torch.zeros(4, dtype=torch.float16),
    "random": torch.zeros(9, dtype=torch.uint8),
}


def damaged(whole, folder, tensors):
    found = checkpoint.find(whole.folder)
    forge(folder / "checkpoints" / found.path.name, to_bytes(tensors), found.record)


@pytest.mark.parametrize("name", WRONG)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, whole, name):
    tensors = checkpoint.find(whole.folder).tensors
    damaged(whole, tmp_path, tensors | {name: WRONG[name]})
    shape = str(tuple(WRONG[name].shape)).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(CheckpointError, match=rf"checkpoint: {name} must be .* got {shape}"):
        fit(tmp_path, resume=True)


@pytest.mark.parametrize("name", WRONG)
def test_a_missing_tensor_is_named(tmp_path, whole, name):
    damaged(
        whole,
        tmp_path,
        {key: x for key, x in checkpoint.find(whole.folder).tensors.items() if key != name},
    )
    with pytest.raises(CheckpointError, match=f"checkpoint: {name} must be .* got nothing"):
        fit(tmp_path, resume=True)


def test_a_pool_of_another_size_is_another_run(tmp_path, whole):
    damaged(whole, tmp_path, checkpoint.find(whole.folder).tensors)
    with pytest.raises(ValueError, match="pool is 7, the run to be continued has 6"):
        fit(tmp_path, resume=True, pool=7)

"""A step of training: parts of a batch add up to it, and all its randomness is its own."""

from collections import Counter

import pytest
import torch

from dmmd_kernels.data import augmented
from dmmd_kernels.data.datasets import DATASETS
from dmmd_kernels.runs.optimiser import learning_rate, make_optimizer, update_average
from dmmd_kernels.runs.settings import SettingsError
from dmmd_kernels.systems.dmmd import training
from dmmd_kernels.systems.dmmd.deep_kernel import make_kernel
from dmmd_kernels.systems.dmmd.training import accumulate, bands, batch_of, build, step
from tests.runs import IMAGES, TINY


@pytest.fixture(scope="module")
def dataset():
    pytest.importorskip("sklearn")
    return DATASETS["digits"](IMAGES.source)


def kernel_of(settings, dataset):
    return make_kernel(settings.system, dataset.train.shape[1:], settings.seed)


def gradients(settings, dataset):
    deep = kernel_of(settings, dataset).double()
    batch = batch_of(3, dataset, settings)
    loss = accumulate(deep, type(batch)(*(part.double() for part in batch)), settings)
    return loss, torch.cat([p.grad.flatten() for p in deep.parameters()])


@pytest.mark.parametrize("micro_levels", [1, 2, 5])
def test_levels_in_parts_give_the_loss_and_gradient_of_all(dataset, micro_levels):
    settings = IMAGES.changed(levels=5, dropout=0.0)
    whole, expected = gradients(settings, dataset)
    parts, found = gradients(settings.changed(micro_levels=micro_levels), dataset)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(found, expected)


def test_a_step_with_dropout_depends_on_seed_and_step_alone(dataset):
    losses = []
    for noise in (0, 1):
        state = build(IMAGES, dataset)
        torch.manual_seed(noise)
        losses += [step(state, IMAGES, dataset)["loss"] for _ in range(2)]
    assert torch.equal(losses[0], losses[2])
    assert torch.equal(losses[1], losses[3])
    assert not torch.equal(losses[0], losses[1])


def test_noised_and_clean_samples_are_of_different_images(dataset):
    batch = batch_of(0, dataset, IMAGES.changed(t_min=0.0, t_max=0.0))
    distances = torch.cdist(batch.x_t[0].flatten(1), batch.x_0[0].flatten(1))
    assert batch.x_t.shape == batch.x_0.shape == (3, 8, 1, 8, 8)
    assert distances.diagonal().min() > 1


def test_images_are_mirrored_half_the_time_and_spread_over_their_bins():
    images = torch.arange(6.0).expand(400, 1, 2, 6)
    found = augmented(images, torch.Generator().manual_seed(0), flip=True, spacing=0.25)
    mirrored = found[:, 0, 0, 0] > 2
    assert 150 < mirrored.sum() < 250
    offset = found - torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    assert offset.abs().max() <= 0.125
    assert offset.std().item() == pytest.approx(0.25 / 12**0.5, rel=0.05)
    assert images is augmented(images, torch.Generator(), flip=False, spacing=0.0)


def test_the_learning_rate_warms_up_and_decays():
    settings = IMAGES.changed(warmup=3, learning_rate=1.0, decay="constant").system
    assert [learning_rate(settings, at, 8) for at in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    cosine = IMAGES.changed(warmup=0, learning_rate=1.0, decay="cosine").system
    assert [learning_rate(cosine, at, 8) for at in (0, 4, 8)] == pytest.approx([1, 0.5, 0])


def test_the_optimiser_is_the_one_that_was_asked_for():
    weights = [torch.nn.Parameter(torch.ones(2))]
    adam, adamw = (make_optimizer(s.system, weights) for s in (TINY, IMAGES))
    assert (type(adam), type(adamw)) == (torch.optim.Adam, torch.optim.AdamW)
    assert adamw.param_groups[0]["weight_decay"] == 0.1
    assert adamw.param_groups[0]["lr"] == adam.param_groups[0]["lr"] == 1e-2


def test_the_average_follows_parameters_and_copies_buffers():
    ema, module = torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2)
    with torch.no_grad():
        module.weight.fill_(3.0)
    module.running_mean.fill_(5.0)
    update_average(ema, module, 0.75)
    assert ema.weight.tolist() == [1.5, 1.5]
    assert ema.running_mean.tolist() == [5.0, 5.0]


def test_the_gradient_is_cut_to_its_greatest_norm(dataset):
    norms = []
    for clip in (1e-3, 0.0):
        settings = IMAGES.changed(clip=clip, dropout=0.0)
        state = build(settings, dataset)
        step(state, settings, dataset)
        grads = [p.grad.flatten() for p in state.networks["deep"].parameters()]
        norms.append(torch.cat(grads).norm().item())
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert norms[1] > 2e-3


def test_a_step_moves_the_kernel_its_average_and_the_counts(dataset):
    settings = IMAGES.changed(ema=0.5)
    state = build(settings, dataset)
    before = [p.clone() for p in state.networks["ema"].parameters()]
    told = step(state, settings, dataset)
    assert (state.step, state.seen) == (1, 2 * 3 * 8)
    pairs = zip(before, state.networks["deep"].parameters(), strict=True)
    for found, (old, new) in zip(state.networks["ema"].parameters(), pairs, strict=True):
        torch.testing.assert_close(found, (old + new.detach()) / 2)
    assert told["learning_rate"] == pytest.approx(1e-2 / 8)
    assert not any(p.requires_grad for p in state.networks["ema"].parameters())


def test_levels_are_drawn_in_the_order_of_the_batch(dataset):
    """What a step tells of its quarters is asked of the same generator again."""
    batch = batch_of(5, dataset, IMAGES)
    generator = training.generator_of(IMAGES.seed, training.Stream.TRAINING, 5)
    assert torch.equal(training.levels_of(generator, IMAGES.system), batch.t)


def test_more_pairs_of_the_penalty_than_the_batch_has_are_refused(dataset):
    with pytest.raises(SettingsError, match="penalty_batch must be at most batch, got 9 and 8"):
        build(IMAGES.changed(penalty_batch=9), dataset)


def test_bands_are_quarters_of_the_levels():
    t = torch.tensor([0.02, 0.3, 0.31, 0.97])
    found = bands(torch.tensor([1.0, 2.0, 4.0, 8.0]), t, TINY.system)  # t from 0.02 to 0.98
    assert found == {"mmd2/0.02-0.26": 1, "mmd2/0.26-0.50": 3, "mmd2/0.74-0.98": 8}


# Quarters of [0, 1] end at numbers that are exact: a level on an edge belongs to the one below.
EDGES = {
    (0.0, 0.25, 0.5, 0.75): [(0.0, 0.25), (0.0, 0.25), (0.25, 0.5), (0.5, 0.75)],
    (0.25, 0.75, 1.0): [(0.0, 0.25), (0.5, 0.75), (0.75, 1.0)],
    (0.5,): [(0.25, 0.5)],
    (1.0,): [(0.75, 1.0)],
    (0.0,): [(0.0, 0.25)],
    (0.25 - 2**-26, 0.25, 0.25 + 2**-25): [(0.0, 0.25), (0.0, 0.25), (0.25, 0.5)],
    (0.5 - 2**-25, 0.75 + 2**-24): [(0.25, 0.5), (0.75, 1.0)],
    (0.1, 0.2, 0.24): [(0.0, 0.25)] * 3,
}


@pytest.mark.parametrize("levels", EDGES, ids=str)
def test_a_level_on_or_beside_an_edge_has_its_quarter(levels):
    settings = TINY.changed(t_min=0.0, t_max=1.0).system
    values = 2.0 ** torch.arange(len(levels))
    found = bands(values, torch.tensor(levels), settings)
    names = [f"mmd2/{low:.2f}-{high:.2f}" for low, high in EDGES[levels]]
    members = {name: [] for name in names}
    for name, value in zip(names, values.tolist(), strict=True):
        members[name].append(value)
    assert list(found) == list(Counter(names))
    assert found == {name: sum(kept) / len(kept) for name, kept in members.items()}


def test_a_range_of_one_level_has_its_bands():
    settings = TINY.changed(t_min=0.5, t_max=0.5).system
    found = bands(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5]), settings)
    assert found == {"mmd2/0.50-0.50": 2}


@pytest.mark.parametrize("pairs", [1, 8])
def test_the_penalty_may_read_fewer_pairs(dataset, pairs):
    settings = IMAGES.changed(penalty_batch=pairs)
    assert batch_of(0, dataset, settings).mix.shape == (3, pairs)
    loss, _ = gradients(settings, dataset)
    assert (loss.gradient_penalty > 0).all()


def test_a_compiled_network_has_the_gradients_of_the_other(dataset):
    """It is compiled where it is differentiated once; the penalty goes on in eager mode."""
    settings = IMAGES.changed(dropout=0.0, features="mlp")
    deep = kernel_of(settings, dataset)
    found = []
    for compiled in (False, True):
        if compiled:
            deep.features.compile(backend="aot_eager")
        deep.zero_grad()
        accumulate(deep, batch_of(0, dataset, settings), settings)
        found.append(torch.cat([p.grad.flatten() for p in deep.parameters()]))
    torch.testing.assert_close(*found)

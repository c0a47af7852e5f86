"""A step of training: parts of a batch add up to it, and all its randomness is its own."""

from dataclasses import replace

import pytest
import torch

from dmmd_kernels.data import augmented
from dmmd_kernels.runs.run import DATASETS, make_kernel, make_schedule
from dmmd_kernels.systems.dmmd.step import State, accumulate, batch_of, learning_rate, train_step
from tests.runs import IMAGES

SCHEDULE = make_schedule(IMAGES)


@pytest.fixture(scope="module")
def dataset():
    pytest.importorskip("sklearn")
    return DATASETS["digits"](IMAGES)


def gradients(settings, dataset):
    deep = make_kernel(settings, dataset.train.shape[1:]).double()
    batch = batch_of(3, dataset, SCHEDULE, settings)
    loss = accumulate(deep, type(batch)(*(part.double() for part in batch)), settings)
    return loss, torch.cat([p.grad.flatten() for p in deep.parameters()])


@pytest.mark.parametrize("micro_levels", [1, 2, 5])
def test_levels_in_parts_give_the_loss_and_gradient_of_all(dataset, micro_levels):
    settings = replace(IMAGES, levels=5, dropout=0.0)
    whole, expected = gradients(settings, dataset)
    parts, found = gradients(replace(settings, micro_levels=micro_levels), dataset)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(found, expected)


def test_a_step_with_dropout_depends_on_seed_and_step_alone(dataset):
    losses = []
    for noise in (0, 1):
        state = State(make_kernel(IMAGES, dataset.train.shape[1:]), IMAGES)
        torch.manual_seed(noise)
        losses += [train_step(state, dataset, SCHEDULE, IMAGES) for _ in range(2)]
    assert torch.equal(losses[0].total, losses[2].total)
    assert torch.equal(losses[1].total, losses[3].total)


def test_noised_and_clean_samples_are_of_different_images(dataset):
    batch = batch_of(0, dataset, SCHEDULE, replace(IMAGES, t_min=0.0, t_max=0.0))
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
    settings = replace(IMAGES, warmup=3, steps=8, learning_rate=1.0, decay="constant")
    assert [learning_rate(settings, step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert learning_rate(replace(settings, decay="cosine"), 4) == pytest.approx(0.5)


@pytest.mark.parametrize("pairs", [1, 8])
def test_the_penalty_may_read_fewer_pairs(dataset, pairs):
    settings = replace(IMAGES, penalty_batch=pairs)
    assert batch_of(0, dataset, SCHEDULE, settings).mix.shape == (3, pairs)
    loss, _ = gradients(settings, dataset)
    assert (loss.gradient_penalty > 0).all()


def test_a_compiled_network_has_the_gradients_of_the_other(dataset):
    """It is compiled where it is differentiated once; the penalty goes on in eager mode."""
    settings = replace(IMAGES, dropout=0.0, features="mlp")
    deep = make_kernel(settings, dataset.train.shape[1:])
    found = []
    for compiled in (False, True):
        if compiled:
            deep.features.compile(backend="aot_eager")
        deep.zero_grad()
        accumulate(deep, batch_of(0, dataset, SCHEDULE, settings), settings)
        found.append(torch.cat([p.grad.flatten() for p in deep.parameters()]))
    torch.testing.assert_close(*found)

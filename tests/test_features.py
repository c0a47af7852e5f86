"""Feature and width networks: shapes, levels that do not mix, and what they refuse."""

import pytest
import torch

from dmmd_kernels.networks.features import (
    ConvFeatures,
    IdentityFeatures,
    MLPFeatures,
    Width,
)

NETWORKS = {
    "identity": (lambda: IdentityFeatures(), (2,), 2),
    "mlp": (lambda: MLPFeatures(2, 5), (2,), 5),
    "conv": (lambda: ConvFeatures((1, 8, 8), 6, width=4), (1, 8, 8), 6),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_level_sees_its_own_t_alone(name):
    make, shape, features = NETWORKS[name]
    network, t = make(), torch.tensor([0.1, 0.5, 0.9])
    x = torch.randn(3, 4, *shape)
    together = network(x, t)
    assert together.shape == (3, 4, features)
    for i in range(3):
        alone = network(x[i : i + 1], t[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_features_depend_on_the_noise_level(name):
    make, shape, _ = NETWORKS[name]
    x = torch.randn(1, 4, *shape).expand(2, -1, *[-1] * len(shape))
    low, high = make()(x, torch.tensor([0.1, 0.9]))
    assert not torch.allclose(low, high)


def test_width_begins_where_it_is_told_and_keeps_its_floor():
    width = Width(8, start=0.7, floor=0.05)
    t = torch.linspace(0, 1, 9)
    torch.testing.assert_close(width(t), torch.full((9,), 0.7))
    with torch.no_grad():
        width.body[-1].bias.fill_(-100.0)
    torch.testing.assert_close(width(t), torch.full((9,), 0.05))


def test_networks_say_what_they_need():
    with pytest.raises(ValueError, match="must be even, got"):
        ConvFeatures((1, 7, 8), 4)

"""All that training changes, and that a checkpoint therefore holds."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmmd_kernels.runs.checkpoint import Checkpoint, CheckpointError

# What torch's optimisers of the Adam family keep of a parameter, beside its step.
MOMENTS = ("exp_avg", "exp_avg_sq")


class Follower(NamedTuple):
    """An optimiser of the Adam family, and the name of the network whose parameters it moves."""

    network: str
    optimizer: torch.optim.Optimizer


class State:
    """Networks, their optimisers and pools of particles, by names; the phase and the step.

    Names of networks and optimisers are distinct; "pool" and "random" are taken. A system whose
    phases add networks makes them in `build`, from the number of the phase.

    Attributes:
        networks: trained ones and their averages.
        followers: the optimisers.
        pools: tensors that a step replaces, such as particles on their way.
        phase: of a training in phases; 0 otherwise.
        step: steps done.
        seen: samples that went through a network, noised and clean, since training began or went
            on; for the log alone.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        followers: Mapping[str, Follower] | None = None,
        pools: Mapping[str, Tensor] | None = None,
        phase: int = 0,
    ) -> None:
        self.networks, self.followers = dict(networks), dict(followers or {})
        self.pools, self.phase = dict(pools or {}), phase
        self.step = self.seen = 0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name; with the CPU's global random state."""
        named = {
            f"{name}.{key}": value
            for name, network in self.networks.items()
            for key, value in network.state_dict().items()
        }
        named |= {f"pool.{name}": value for name, value in self.pools.items()}
        for name, (network, optimizer) in self.followers.items():
            for parameter_name, parameter in self.networks[network].named_parameters():
                for key, value in optimizer.state.get(parameter, {}).items():
                    named[f"{name}.{parameter_name}.{key}"] = value
        return named | {"random": torch.get_rng_state()}

    def restore(self, found: Checkpoint) -> None:
        """Everything, to train on from there.

        Raises:
            CheckpointError: a tensor is missing or does not fit.
        """
        self.load(found)
        for name, (network, optimizer) in self.followers.items():
            for parameter_name, parameter in self.networks[network].named_parameters():
                prefix = f"{name}.{parameter_name}."
                if any(key.startswith(prefix) for key in found.tensors):
                    optimizer.state[parameter] = _moments(found.tensors, prefix, parameter)
        random = torch.get_rng_state()
        copy_tensor(random, found.tensors, "random")
        torch.set_rng_state(random)

    def load(self, found: Checkpoint) -> None:
        """Networks, pools and the step: what drawing samples needs.

        Raises:
            CheckpointError: a tensor is missing or does not fit.
        """
        with torch.no_grad():
            for name, network in self.networks.items():
                for key, target in network.state_dict().items():
                    copy_tensor(target, found.tensors, f"{name}.{key}")
            for name, target in self.pools.items():
                copy_tensor(target, found.tensors, f"pool.{name}")
        self.step = found.step


def _moments(tensors: Mapping[str, Tensor], prefix: str, parameter: Tensor) -> dict[str, Tensor]:
    blank = {"step": torch.zeros(())} | {key: torch.zeros_like(parameter) for key in MOMENTS}
    for key, value in blank.items():
        copy_tensor(value, tensors, f"{prefix}{key}")
    return blank


def copy_tensor(target: Tensor, tensors: Mapping[str, Tensor], name: str) -> None:
    """target ← tensors[name].

    Raises:
        CheckpointError: it is missing or has another shape or dtype.
    """
    source = tensors.get(name)
    wanted = (tuple(target.shape), target.dtype)
    if source is None or (tuple(source.shape), source.dtype) != wanted:
        got = "nothing" if source is None else f"{tuple(source.shape)}, {source.dtype}"
        raise CheckpointError(f"checkpoint: {name} must be {wanted[0]}, {wanted[1]}, got {got}")
    target.copy_(source)

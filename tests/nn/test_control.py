"""The branch beside a frozen network: nothing at the start, and never anything to the frozen one."""

import pytest
import torch
from torch import nn

from kakusan.conditioning import Condition
from kakusan.nn import FourierFeatures, Patched, UNet
from kakusan.nn.control import Controlled, controlled
from kakusan.nn.dit import DiT
from kakusan.specs import from_spec, to_spec


def trained(**arguments: object) -> UNet:
    """A U-Net whose zeros have gone, as after training."""
    network = UNet(channels=4, width=8, multipliers=(1, 2), depth=2, condition_width=6, **arguments)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return network


def inputs(channels: int = 4, spatial: int = 2) -> tuple[torch.Tensor, torch.Tensor, Condition]:
    x, c_noise = torch.randn(3, channels, 7, 9), torch.randn(3)
    return x, c_noise, Condition(vector=torch.randn(3, 6), spatial=torch.randn(3, spatial, 7, 9))


def plain(cond: Condition) -> Condition:
    return Condition(vector=cond.vector)


def test_at_the_start_the_output_is_that_of_the_frozen_network() -> None:
    x, c_noise, cond = inputs()
    network = trained()
    before = network(x, c_noise, plain(cond))
    assert torch.equal(controlled(network, 2)(x, c_noise, cond), before)
    patched = Patched(backbone=UNet(channels=8, width=8, multipliers=(1, 2), depth=1, condition_width=6), patch=2)
    for parameter in patched.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(3, 2, 7, 9)
    before = patched(x, c_noise, plain(cond))
    assert torch.equal(controlled(patched, 2)(x, c_noise, cond), before)
    inner = UNet(channels=3, out_channels=1, width=8, multipliers=(1,), depth=1, condition_width=6)
    waves = FourierFeatures(backbone=inner, frequencies=(2.0,))
    before = waves(x[:, :1], c_noise, plain(cond))
    assert torch.equal(controlled(waves, 2)(x[:, :1], c_noise, cond), before)


def test_training_moves_the_branch_alone() -> None:
    x, c_noise, cond = inputs()
    network = controlled(trained(dropout=0.3), 2)
    assert isinstance(network, Controlled)
    kept = {name: value.clone() for name, value in network.base.state_dict().items()}
    network.train()
    assert not network.base.training
    assert network.branch.training
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=1e-2)
    other = Condition(vector=cond.vector, spatial=-cond.spatial if cond.spatial is not None else None)
    for _ in range(3):
        optimizer.zero_grad()
        network(x, c_noise, cond).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(value, kept[name]) for name, value in network.base.state_dict().items())
    assert all(p.grad is None for p in network.base.parameters())
    network.eval()
    # The picture is heard now, and the condition is not.
    assert not torch.equal(network(x, c_noise, cond), network(x, c_noise, other))


def test_it_is_stored_and_refuses_what_does_not_fit() -> None:
    x, c_noise, cond = inputs()
    network = controlled(trained(), 2)
    again = from_spec(to_spec(network), Controlled)
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x, c_noise, cond), network(x, c_noise, cond))
    with pytest.raises(ValueError, match=r"needs a Condition\.spatial"):
        network(x, c_noise, plain(cond))
    with pytest.raises(ValueError, match="starts from a picture already"):
        controlled(UNet(channels=4, width=8, spatial_channels=1), 2)
    with pytest.raises(ValueError, match="this network is a DiT"):
        controlled(DiT(channels=4, width=64, depth=2), 2)

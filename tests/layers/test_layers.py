"""Layers that families share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from statescan.layers import Mlp
from statescan.layers.resolution import HalvingConv


@pytest.mark.parametrize("wide", [0, 2**20], ids=["patches", "convolution"])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 4), (8, 9)], ids=str)
def test_halving_is_a_convolution(monkeypatch, size, wide):
    """On both of its paths, in value and gradient."""
    monkeypatch.setattr(HalvingConv, "WIDE", wide)
    layer = HalvingConv(3, 5).double()
    x = torch.randn(2, *size, 3, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    want = F.conv2d(x.permute(0, 3, 1, 2), layer.weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(y, want.permute(0, 2, 3, 1))
    leaves = [x, layer.weight, layer.bias]
    dy = torch.randn_like(y)
    got = torch.autograd.grad(y, leaves, dy)
    expected = torch.autograd.grad(want, leaves, dy.permute(0, 3, 1, 2))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_mlp_runs_what_is_put_in_place_of_its_first_layer():
    """Adapters replace linear layers; what they add comes before the activation."""
    mlp = Mlp(6, 12)
    x = torch.randn(2, 5, 6)
    want = mlp(x)
    plain = nn.Linear(6, 12)
    plain.load_state_dict(mlp.fc1.state_dict())
    mlp.fc1 = plain
    torch.testing.assert_close(mlp(x), want)
    with torch.no_grad():
        torch.testing.assert_close(mlp(x), want.detach())

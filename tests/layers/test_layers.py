"""Layers that families share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from statescan.layers import ConvMlp, Mlp, PatchMerging
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


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_conv_mlp_is_its_definition(residual):
    mlp = ConvMlp(6, 12, residual=residual)
    x = torch.randn(2, 3, 5, 6)
    hidden = F.linear(x, mlp.fc1.weight, mlp.fc1.bias)
    y = F.conv2d(
        hidden.permute(0, 3, 1, 2), mlp.conv.weight, mlp.conv.bias, padding=1, groups=12
    ).permute(0, 2, 3, 1)
    want = F.linear(F.gelu(y + hidden * residual), mlp.fc2.weight, mlp.fc2.bias)
    torch.testing.assert_close(mlp(x), want)


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (3, 4), (5, 7)], ids=str)
def test_patch_merging_reads_blocks_column_by_column(size):
    layer = PatchMerging(2, 8)
    layer.norm, layer.reduction = nn.Identity(), nn.Identity()
    H, W = size
    x = torch.randn(1, H, W, 2)
    y = layer(x)
    assert y.shape == (1, (H + 1) // 2, (W + 1) // 2, 8)
    padded = F.pad(x, (0, 0, 0, 1, 0, 1))
    for h in range(y.shape[1]):
        for w in range(y.shape[2]):
            block = padded[0, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
            assert torch.equal(y[0, h, w], block.transpose(0, 1).flatten()), (h, w)

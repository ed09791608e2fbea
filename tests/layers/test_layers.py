"""Layers that families share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from statescan.layers import AttentiveSum, BiAttention, Mlp, PatchMerging
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


def test_bi_attention_weighs_every_map_by_itself():
    """With and without a dimension of routes between grid and channels."""
    layer, merge = BiAttention(16).double(), AttentiveSum(16).double()
    merge.load_state_dict(layer.state_dict())
    y = torch.randn(2, 5, 3, 4, 16, dtype=torch.float64)
    weights = torch.sigmoid(
        layer.fc2(F.gelu(layer.fc1(F.layer_norm(y, (16,)).flatten(1, 2).mean(1))))
    )
    want = y * weights[:, None, None]
    torch.testing.assert_close(layer(y), want)
    torch.testing.assert_close(layer(y[..., 1, :]), want[..., 1, :])
    torch.testing.assert_close(merge(y), want.sum(3))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 4), (8, 9)], ids=str)
def test_patch_merging_reads_blocks_column_by_column(size):
    layer = PatchMerging(3, 6)
    H, W = size
    x = torch.randn(2, H, W, 3)
    padded = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
    block = torch.cat([padded[:, h::2, w::2] for w in (0, 1) for h in (0, 1)], dim=-1)
    torch.testing.assert_close(layer(x), layer.reduction(layer.norm(block)))

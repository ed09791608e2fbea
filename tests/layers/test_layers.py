"""Layers that families share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from statescan.layers import (
    AttentiveSum,
    BiAttention,
    ConvMlp,
    Mlp,
    PatchEmbed,
    PatchMerging,
    patch_grid,
    resample_positions,
    rotary_table,
)
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


@pytest.mark.parametrize("stride", [4, 8], ids=["overlapping", "apart"])
@pytest.mark.parametrize("size", [(1, 1), (3, 70), (8, 12), (9, 13), (24, 16)], ids=str)
def test_patches_cover_every_pixel(size, stride):
    """Where whole patches fit they are the plain convolution, elsewhere zeros fill them."""
    embed = PatchEmbed(3, 5, 8, stride).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    y = embed(x)
    assert y.shape == (2, *patch_grid(size, 8, stride), 5)
    full = F.conv2d(F.pad(x, (0, 8, 0, 8)), embed.proj.weight, embed.proj.bias, stride=stride)
    torch.testing.assert_close(y, full.permute(0, 2, 3, 1)[:, : y.shape[1], : y.shape[2]])
    y.sum().backward()
    assert (x.grad.abs().amax((0, 1)) > 0).all()
    fewer = (side - 1 for side in patch_grid(size, 8, stride))
    assert all((n - 1) * stride + 8 < side or n == 0 for n, side in zip(fewer, size, strict=True))


def test_positions_are_resampled_as_an_image():
    table = torch.randn(1, 24, 2)
    assert resample_positions(table, (4, 6), (4, 6)) is table
    grid = table.view(1, 4, 6, 2).permute(0, 3, 1, 2)
    want = F.interpolate(grid, (2, 12), mode="bicubic", align_corners=False)
    got = resample_positions(table, (4, 6), (2, 12)).view(1, 2, 12, 2)
    torch.testing.assert_close(got, want.permute(0, 2, 3, 1))


def test_rotary_angles():
    sin, cos = rotary_table(8, 2, 3, 6)[0].view(2, 3, 16).chunk(2, dim=-1)
    angles = torch.tensor([3.0, 3.0, 0.03, 0.03, 4.0, 4.0, 0.04, 0.04])  # row 1 of 2, column 2 of 3
    torch.testing.assert_close(sin[1, 2], angles.sin())
    torch.testing.assert_close(cos[1, 2], angles.cos())
    with pytest.raises(ValueError, match="dim is 6, expected a multiple of 4"):
        rotary_table(6, 2, 2, 14)


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
    torch.testing.assert_close(merge(y.flatten(1, 2)), want.sum(3).flatten(1, 2))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 4), (8, 9)], ids=str)
def test_patch_merging_reads_blocks_column_by_column(size):
    layer = PatchMerging(3, 6)
    H, W = size
    x = torch.randn(2, H, W, 3)
    padded = F.pad(x, (0, 0, 0, W % 2, 0, H % 2))
    block = torch.cat([padded[:, h::2, w::2] for w in (0, 1) for h in (0, 1)], dim=-1)
    torch.testing.assert_close(layer(x), layer.reduction(layer.norm(block)))


@pytest.mark.parametrize("gate", [False, True], ids=["plain", "gate"])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_conv_mlp_is_its_definition(residual, gate):
    mlp = ConvMlp(6, 12, residual=residual, gate=gate)
    x = torch.randn(2, 3, 5, 6)
    hidden = F.linear(x, mlp.fc1.weight, mlp.fc1.bias)
    hidden, z = hidden[..., :12], hidden[..., 12:]
    y = F.conv2d(
        hidden.permute(0, 3, 1, 2), mlp.conv.weight, mlp.conv.bias, padding=1, groups=12
    ).permute(0, 2, 3, 1)
    y = F.gelu(y + hidden * residual)
    want = F.linear(y * z if gate else y, mlp.fc2.weight, mlp.fc2.bias)
    torch.testing.assert_close(mlp(x), want)

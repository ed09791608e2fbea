"""Deformable sampling against a loop over its points."""

import pytest
import torch
import torch.nn.functional as F

from statescan.layers import DeformableSampling, deformable_sample


def read(x, h, w):
    """A pixel of a map (H, W, C), zero outside."""
    H, W, C = x.shape
    return x[h, w] if 0 <= h < H and 0 <= w < W else x.new_zeros(C)


def point_by_point(x, offsets, masks):
    B, H, W, C = x.shape
    G = masks.shape[3]
    out = torch.zeros(B, H, W, G, C // G, dtype=x.dtype)
    for b, h, w, g in torch.cartesian_prod(*map(torch.arange, (B, H, W, G))).tolist():
        group = x[b].unflatten(-1, (G, -1))[:, :, g]
        total = 0
        for i in range(3):  # over columns first
            for j in range(3):
                dx, dy = offsets[b, h, w, g, 3 * i + j]
                px, py = w + i - 1 + dx, h + j - 1 + dy
                left, top = int(px.floor()), int(py.floor())
                fx, fy = px - left, py - top
                value = (
                    (1 - fy) * (1 - fx) * read(group, top, left)
                    + (1 - fy) * fx * read(group, top, left + 1)
                    + fy * (1 - fx) * read(group, top + 1, left)
                    + fy * fx * read(group, top + 1, left + 1)
                )
                total = total + masks[b, h, w, g, 3 * i + j] * value
        out[b, h, w, g] = total
    return out.flatten(3)


def problem(size, groups=2, channels=6, spread=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, *size, channels), (2, *size, groups, 9, 2), (2, *size, groups, 9)
    x, offsets, masks = (torch.randn(s, generator=generator, dtype=dtype) for s in shapes)
    return x, offsets * spread, masks


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (6, 1)], ids=str)
@pytest.mark.parametrize("spread", [0.5, 3.0], ids=["near", "leaving-the-image"])
def test_value_and_gradients_point_by_point(size, spread):
    leaves = [t.requires_grad_() for t in problem(size, spread=spread)]
    y, want = deformable_sample(*leaves), point_by_point(*leaves)
    torch.testing.assert_close(y, want, rtol=1e-10, atol=1e-10)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    got = torch.autograd.grad(y, leaves, dy)
    for a, b in zip(got, torch.autograd.grad(want, leaves, dy), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_far_and_bad_offsets_read_nothing():
    x, offsets, masks = problem((4, 5))
    offsets[0] = torch.tensor([1e30, -torch.inf])
    offsets[1, 2, 3, 0] = torch.nan
    y = deformable_sample(x, offsets, masks)
    assert (y[0] == 0).all()
    want = deformable_sample(x, offsets.nan_to_num(100.0), masks)
    torch.testing.assert_close(y, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_sums_in_float32(dtype):
    inputs = [t.to(dtype) for t in problem((4, 5), dtype=torch.float32)]
    y = deformable_sample(*inputs)
    want = deformable_sample(*(t.float() for t in inputs))
    assert y.dtype == dtype
    assert torch.equal(y, want.to(dtype))


def test_shapes_are_checked():
    x, offsets, masks = problem((4, 5))
    sentence = r"\(2, 4, 5, 5\), \(2, 4, 5, 2, 9, 2\) and \(2, 4, 5, 2, 9\), expected"
    with pytest.raises(ValueError, match=sentence):
        deformable_sample(x[..., :5], offsets, masks)
    with pytest.raises(ValueError, match="groups is 3, which does not divide the 8 channels"):
        DeformableSampling(8, 3)


@pytest.mark.parametrize("depthwise", [False, True], ids=["linear", "depthwise"])
def test_module_equals_its_definition(depthwise):
    torch.manual_seed(0)
    layer = DeformableSampling(6, 2, depthwise=depthwise).double()
    torch.nn.init.normal_(layer.offset_mask.weight)
    x = problem((4, 5))[0]
    source = x
    if depthwise:
        conv = layer.conv
        source = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=1, groups=6)
        source = source.permute(0, 2, 3, 1)
    numbers = F.linear(source, layer.offset_mask.weight, layer.offset_mask.bias)
    assert numbers.shape[-1] == 56  # 2·27, rounded up to a multiple of 8
    first, second = numbers[..., :27], numbers[..., 27:54]
    offsets = torch.stack([first[..., :18], second[..., :18]], dim=3).unflatten(-1, (9, 2))
    masks = torch.stack([first[..., 18:], second[..., 18:]], dim=3)
    torch.testing.assert_close(layer(x), point_by_point(x, offsets, masks))


def test_starts_near_the_mean_of_the_neighbours():
    torch.manual_seed(0)
    layer = DeformableSampling(6, 2)
    torch.nn.init.zeros_(layer.offset_mask.weight)
    x = problem((4, 5), dtype=torch.float32)[0]
    mean = F.avg_pool2d(x.permute(0, 3, 1, 2), 3, stride=1, padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), mean)

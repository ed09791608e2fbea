"""Pooling of regions, through mmcv's own functions, against loops over numbers."""

import ops_definitions as definitions
import pytest
import torch
from mmcv.ops import deform_roi_pool, roi_align, roi_pool
from torch.autograd import gradcheck

SIZE, SCALE = (2, 3), 0.5


@pytest.fixture
def maps():
    return torch.randn(2, 2, 6, 7, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def rois():
    """Inside, over each border, smaller than a pixel, without area, and nowhere near."""
    return torch.tensor(
        [
            [0, 1.3, 2.1, 9.7, 8.2],
            [1, -4.0, -3.0, 6.0, 7.0],
            [1, 5.2, 4.4, 17.5, 14.9],
            [0, 3.1, 3.2, 3.5, 3.9],
            [1, 4.0, 4.0, 4.0, 4.0],
            [0, 30.0, 30.0, 40.0, 40.0],
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align(maps, rois, mode, ratio, aligned):
    arguments = (SIZE, SCALE, ratio, mode, aligned)
    expected = torch.from_numpy(definitions.roi_align(maps.numpy(), rois.numpy(), *arguments))
    torch.testing.assert_close(roi_align(maps, rois, *arguments), expected)
    single = roi_align(maps.float(), rois.float(), *arguments)
    torch.testing.assert_close(single, expected.float(), rtol=1e-4, atol=1e-5)
    maps.requires_grad_()
    assert gradcheck(lambda x: roi_align(x, rois, *arguments), (maps,))


def test_roi_pool(maps, rois):
    expected = torch.from_numpy(definitions.roi_pool(maps.numpy(), rois.numpy(), SIZE, SCALE))
    torch.testing.assert_close(roi_pool(maps, rois, SIZE, SCALE), expected)
    maps.requires_grad_()
    assert gradcheck(lambda x: roi_pool(x, rois, SIZE, SCALE), (maps,))


def test_roi_pool_of_a_region_without_width(maps):
    pooled = roi_pool(maps, torch.tensor([[0, 5.0, 1, 4, 9]]).double(), SIZE, SCALE)
    assert pooled.equal(torch.zeros(1, 2, *SIZE).double())


@pytest.mark.parametrize("ratio", [0, 2])
def test_deform_roi_pool(maps, rois, ratio):
    shifts = torch.randn(len(rois), 2, *SIZE, generator=torch.Generator().manual_seed(1)).double()
    arguments = (SIZE, SCALE, ratio, 0.3)
    numbers = (maps.numpy(), rois.numpy(), shifts.numpy())
    expected = torch.from_numpy(definitions.deform_roi_pool(*numbers, *arguments))
    torch.testing.assert_close(deform_roi_pool(maps, rois, shifts, *arguments), expected)
    maps.requires_grad_(), shifts.requires_grad_()
    pool = lambda x, shift: deform_roi_pool(x, rois, shift, *arguments)  # noqa: E731
    assert gradcheck(pool, (maps, shifts))
    assert gradcheck(lambda x: deform_roi_pool(x, rois, None, *arguments), (maps,))


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_no_region_has_no_gradient(maps, mode):
    maps.requires_grad_()
    none = maps.new_zeros(0, 5)
    pooled = [
        roi_align(maps, none, SIZE, SCALE, 0, mode),
        roi_pool(maps, none, SIZE, SCALE),
        deform_roi_pool(maps, none, None, SIZE, SCALE),
    ]
    assert all(x.shape == (0, 2, *SIZE) for x in pooled)
    sum(x.sum() for x in pooled).backward()
    assert maps.grad.equal(torch.zeros_like(maps))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_roi_align_in_half_precision(maps, rois, mode, dtype):
    maps = maps.to(dtype).requires_grad_()
    pooled = roi_align(maps, rois.to(dtype), SIZE, SCALE, 2, mode)
    expected = roi_align(maps.detach().float(), rois.to(dtype).float(), SIZE, SCALE, 2, mode)
    assert pooled.dtype == dtype
    assert pooled.equal(expected.to(dtype))
    pooled.float().sum().backward()
    assert maps.grad.isfinite().all()

"""What stands in for ``mmcv._ext``: loaded under that name, with mmcv's signatures."""

from collections.abc import Callable

import torch
import torchvision

from statescan.mm.ops.boxes import bbox_overlaps, nms, nms_match, softnms
from statescan.mm.ops.convolution import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    masked_col2im_forward,
    masked_im2col_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from statescan.mm.ops.focal import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from statescan.mm.ops.reassembly import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
    psamask_backward,
    psamask_forward,
)
from statescan.mm.ops.roi import (
    deform_roi_pool_backward,
    deform_roi_pool_forward,
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)

__all__ = [
    "bbox_overlaps",
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "deform_roi_pool_backward",
    "deform_roi_pool_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "psamask_backward",
    "psamask_forward",
    "roi_align_backward",
    "roi_align_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]

BUILD = (
    "MMCV_WITH_OPS=1 pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation"
    " --no-binary onedl-mmcv onedl-mmcv (a compiler, setuptools >= 80, wheel and ninja needed)"
)


def get_compiler_version() -> str:
    """What environment reports print where mmcv was compiled by nobody."""
    return f"none (statescan.mm.ops on torchvision {torchvision.__version__})"


def get_compiling_cuda_version() -> str:
    """The CUDA version of torch, whose operators do the work."""
    return torch.version.cuda or "not available"


def __getattr__(name: str) -> Callable:
    """Any other operator: a function that says, when called, how to get the real one."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def missing(*args, **kwargs):
        raise NotImplementedError(
            f"{name} is one of mmcv's compiled operators and statescan has no stand-in for it:"
            f" build mmcv with its operators by {BUILD}."
        )

    return missing

"""Segmentation U-Nets inside MMSegmentation: what its ``EncoderDecoder`` puts around them.

A config asks for this file, which needs mmseg:
``custom_imports=dict(imports=["statescan.mm", "statescan.mm.models.unet"])``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import accuracy
from torch import Tensor, nn

from ...backbones import list_models
from ...errors import nearest
from ..errors import InputError
from .backbone import StateScanBackbone


@MODELS.register_module()
class StateScanUNet(StateScanBackbone):
    """A registered U-Net, decoder and classifier included: an mmseg backbone that gives logits.

    Images (B, C, H, W) of any size → one map (B, num_classes, H, W). Weights are read as by
    ``StateScanBackbone``; the authors' file of the whole U-Net also as ``load_from``.

    Args:
        name: Registered name, such as ``"mhs_vm_unet_4h"``.
        **kwargs: ``num_classes`` (1 tells foreground from background), other arguments of the
            model, and those of ``StateScanBackbone`` but for ``out_indices`` and ``out_norms``.

    Raises:
        InputError: No U-Net has this name, or an argument does not fit it.
    """

    def __init__(self, name: str, **kwargs):
        known = list_models(task="segmentation")
        if name not in known:
            raise InputError(f"there is no U-Net {name!r}: {nearest(name, known)}")
        super().__init__(name, out_indices=None, out_norms=False, **kwargs)
        self.out_channels, self.strides = [self.model.num_classes], [1]

    def _prune(self) -> set[str]:
        """Leave out nothing."""
        return set()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Logits (B, num_classes, H, W) of images x (B, C, H, W)."""
        return (self.model(x),)

    def rename(self, state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """A segmenter's weights by our names; a file of the U-Net alone has no prefix."""
        if not any(key.startswith(prefix) for key in state_dict):
            state_dict = {prefix + key: value for key, value in state_dict.items()}
        return super().rename(state_dict, prefix)


@MODELS.register_module()
class LogitsHead(BaseDecodeHead):
    """The decode head of a network that already gives logits: losses and threshold, no weights.

    Args:
        in_channels: Logits a pixel: 1 for two classes, told apart by a sigmoid, else one a class.
        num_classes: Classes a pixel, background included.
        threshold: Probability from which a pixel of one logit is foreground.
        loss_decode: Losses as in mmseg; None for :class:`BceDiceLoss` of one logit, else
            cross-entropy and Dice loss of the softmax.
        **kwargs: Other arguments of mmseg's ``BaseDecodeHead``.

    Raises:
        InputError: The numbers of logits and classes do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        threshold: float = 0.5,
        loss_decode: dict | list[dict] | None = None,
        **kwargs,
    ):
        if in_channels not in ((1, 2) if num_classes == 2 else (num_classes,)):
            raise InputError(
                f"in_channels is {in_channels} for num_classes {num_classes}, expected a logit a"
                " class, or one for two classes"
            )
        super().__init__(
            in_channels,
            channels=in_channels,
            num_classes=num_classes,
            out_channels=in_channels,
            threshold=threshold,
            dropout_ratio=0,
            loss_decode=loss_decode or (BINARY_LOSS if in_channels == 1 else CLASS_LOSSES),
            init_cfg=None,
            **kwargs,
        )
        del self.conv_seg

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The logits (B, in_channels, H, W) themselves."""
        logits = self._transform_inputs(inputs)
        if logits.shape[1] != self.in_channels:
            raise InputError(
                f"decode_head.in_channels is {self.in_channels}, but the backbone gives"
                f" {logits.shape[1]} logits: set its num_classes"
            )
        return logits

    def loss_by_feat(self, seg_logits: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Losses, and the share of right pixels, for which mmseg would want a logit a class."""
        losses = super().loss_by_feat(seg_logits, batch_data_samples)
        if self.out_channels == 1:
            foreground = seg_logits - math.log(self.threshold / (1 - self.threshold))
            labels = self._stack_batch_gt(batch_data_samples).squeeze(1)
            both = torch.cat((torch.zeros_like(foreground), foreground), 1)
            losses["acc_seg"] = accuracy(both, labels, ignore_index=self.ignore_index)
        return losses


@MODELS.register_module()
class BceDiceLoss(nn.Module):
    """Binary cross-entropy plus Dice loss, as MHS-VM was trained with.

    With the probabilities p = sigmoid(logits) and labels g (0 or 1) of an image's M pixels, and
    means over the images:

        L = bce_weight · mean(-(g log p + (1 - g) log(1 - p)))
          + dice_weight · (1 - mean((2 Σ p g + 1) / (Σ p + Σ g + 1)))

    Ignored pixels are in no sum. (mmseg's ``DiceLoss`` of one logit takes the background for the
    foreground.)

    Args:
        bce_weight: Weight of the cross-entropy.
        dice_weight: Weight of the Dice loss.

    Source: MHS-VM, arXiv 2406.05992, after VM-UNet, arXiv 2402.02491.
    """

    loss_name = "loss_bce_dice"

    def __init__(self, bce_weight: float = 1.0, dice_weight: float = 1.0):
        super().__init__()
        self.bce_weight, self.dice_weight = bce_weight, dice_weight

    def forward(
        self, logits: Tensor, labels: Tensor, weight: Tensor | None = None, ignore_index: int = 255
    ) -> Tensor:
        """The loss of logits (B, 1, H, W) and labels (B, H, W), in float32.

        Args:
            logits: Of the foreground.
            labels: 0, 1 or ``ignore_index``.
            weight: Of each pixel (B, H, W) in the cross-entropy, from mmseg's samplers.
            ignore_index: Label of ignored pixels.
        """
        known = (labels != ignore_index).float().flatten(1)
        logits, target = logits.float().flatten(1), (labels == 1).float().flatten(1)
        scale = known if weight is None else known * weight.flatten(1)
        bce = F.binary_cross_entropy_with_logits(logits, target, scale, reduction="sum")
        p = logits.sigmoid() * known
        dice = (2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)
        return self.bce_weight * bce / known.sum().clamp_min(1) + self.dice_weight * (
            1 - dice.mean()
        )


BINARY_LOSS = dict(type="BceDiceLoss")
CLASS_LOSSES = [
    dict(type="CrossEntropyLoss", avg_non_ignore=True),
    dict(type="DiceLoss", use_sigmoid=False),
]

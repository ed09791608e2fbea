"""A timm model as an MMEngine model: loss in training, scores in evaluation."""

from __future__ import annotations

from difflib import get_close_matches

import timm
import timm.loss
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from timm.data import Mixup
from torch import Tensor, nn

from ...backbones import list_models
from ...errors import nearest
from ..errors import InputError

for _loss in (
    nn.CrossEntropyLoss,
    timm.loss.LabelSmoothingCrossEntropy,
    timm.loss.SoftTargetCrossEntropy,
):
    MODELS.register_module(module=_loss)


def create_backbone(name: str, **kwargs) -> nn.Module:
    """:func:`timm.create_model` that suggests the nearest name for one it does not know.

    Raises:
        InputError: No model has this name, or its ``checkpoint_path`` holds other weights.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=1) or list_models()
        raise InputError(f"there is no model {name!r}: {nearest(name, near)}")
    try:
        return timm.create_model(name, **kwargs)
    except (RuntimeError, ValueError) as error:
        if "checkpoint_path" not in kwargs:
            raise
        raise InputError(f"weights {kwargs['checkpoint_path']} of {name}: {error}") from error


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """An image classifier around ``timm.create_model(**backbone)``.

    Args:
        backbone: Arguments of :func:`timm.create_model`; ``name`` and ``num_classes`` at least.
        loss: Config of the training loss, from (B, classes) logits and (B,) class numbers or
            (B, classes) probabilities to a scalar.
        mixup: Arguments of :class:`timm.data.Mixup` without ``num_classes``; None for no mixing.
            It turns class numbers into probabilities, so it needs ``SoftTargetCrossEntropy``.
    """

    def __init__(self, backbone: dict, loss: dict, mixup: dict | None = None):
        super().__init__()
        self.backbone = create_backbone(**backbone)
        # A detector built before may have left its scope behind, whose losses have these names too.
        with DefaultScope.overwrite_default_scope("mmengine"):
            self.loss = MODELS.build(loss)
        self.mixup = Mixup(num_classes=self.backbone.num_classes, **mixup) if mixup else None

    def init_weights(self) -> None:
        """Leave the weights as timm made or loaded them; MMEngine's default draws them anew."""

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = "tensor"):
        """Run the model.

        Args:
            inputs: (B, C, H, W) normalised images.
            labels: (B,) class numbers or (B, classes) probabilities.
            mode: ``"tensor"`` for logits, ``"predict"`` for a list of one dict an image with
                ``scores`` (classes,) and ``label``, ``"loss"`` for a dict of losses.
        """
        if mode == "tensor":
            return self.backbone(inputs)
        if mode == "predict":
            return self._predict(inputs, labels)
        if mode == "loss":
            return self._losses(inputs, labels)
        raise ValueError(f"mode is {mode!r}, expected 'tensor', 'predict' or 'loss'")

    def _losses(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.mixup is not None:
            inputs, labels = self.mixup(inputs, labels)
        return {"loss": self.loss(self.backbone(inputs), labels)}

    def _predict(self, inputs: Tensor, labels: Tensor | None) -> list[dict[str, Tensor]]:
        scores = torch.softmax(self.backbone(inputs).float(), dim=-1)
        labels = [None] * len(scores) if labels is None else labels
        return [{"scores": s, "label": y} for s, y in zip(scores, labels, strict=True)]

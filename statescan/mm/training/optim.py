"""timm's parameter groups and bf16 autocast for MMEngine's optimizer wrapper."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from timm.optim import Muon, param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from ..errors import InputError
from ..models.backbone import StateScanBackbone

# Torch's own Muon takes matrices only; timm's goes on with AdamW for everything else.
OPTIMIZERS.register_module(name="TimmMuon", module=Muon)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmOptimWrapperConstructor:
    """Groups parameters as timm does: no decay for vectors and for ``model.no_weight_decay()``.

    Norms, biases, and what sets time scales (``A_log``, ``D``) are not decayed; neck and heads of
    a detector or segmenter have the full learning rate.

    Args:
        optim_wrapper_cfg: ``optim_wrapper`` of the config, without ``constructor``.
        paramwise_cfg: ``dict(layer_decay=0.75)`` multiplies the learning rate by that factor for
            each layer of the backbone below its last; None for one rate.

    Raises:
        InputError: ``paramwise_cfg`` has another key, or the backbone does not name its layers.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop("optimizer"))
        unknown = set(paramwise_cfg or {}) - {"layer_decay"}
        if unknown:
            raise InputError(f"paramwise_cfg has {unknown.pop()!r}, expected layer_decay alone")
        self.layer_decay = (paramwise_cfg or {}).get("layer_decay")

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer of ``model``, which has a ``backbone``, and wrap it."""
        model = model.module if is_model_wrapper(model) else model
        groups = self._backbone_groups(model.backbone) + self._other_groups(model)
        if self.optimizer_cfg["type"] == "TimmMuon":
            for group in groups:
                group["use_fallback"] = not group["weight_decay"]  # vectors and time scales
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=groups))
        self.wrapper_cfg.setdefault("type", "OptimWrapper")
        return OPTIM_WRAPPERS.build(dict(self.wrapper_cfg, optimizer=optimizer))

    def _backbone_groups(self, backbone: nn.Module) -> list[dict]:
        if isinstance(backbone, StateScanBackbone):
            backbone = backbone.model
        no_decay = backbone.no_weight_decay() if hasattr(backbone, "no_weight_decay") else ()
        decay = self.optimizer_cfg.get("weight_decay", 0.0)
        if self.layer_decay is None:
            return param_groups_weight_decay(backbone, decay, no_weight_decay_list=no_decay)
        if not hasattr(backbone, "group_matcher"):
            raise InputError(f"layer_decay: {type(backbone).__name__} does not name its layers")
        groups = param_groups_layer_decay(
            backbone, decay, no_weight_decay_list=no_decay, layer_decay=self.layer_decay
        )
        for group in groups:  # timm's schedulers apply lr_scale; MMEngine's do not know it
            group["lr"] = self.optimizer_cfg["lr"] * group.pop("lr_scale")
        return groups

    def _other_groups(self, model: nn.Module) -> list[dict]:
        """Neck and heads: parameters with and without decay."""
        others = nn.ModuleDict({k: v for k, v in model.named_children() if k != "backbone"})
        decay = self.optimizer_cfg.get("weight_decay", 0.0)
        no_decay = {
            f"{part}.{name}"
            for part, module in others.items()
            if hasattr(module, "no_weight_decay")
            for name in module.no_weight_decay()
        }
        groups = param_groups_weight_decay(others, decay, no_weight_decay_list=no_decay)
        return [g for g in groups if g["params"]]


@OPTIM_WRAPPERS.register_module()
class Bf16OptimWrapper(OptimWrapper):
    """Forward and loss under bf16 autocast, on any device; bf16 needs no loss scale."""

    @contextmanager
    def optim_context(self, model: nn.Module):
        """MMEngine's context for a training forward, with autocast inside."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield

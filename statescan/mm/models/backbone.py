"""Any of our backbones inside MMDetection, MMSegmentation and their relatives."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...backbones import list_models
from ...errors import nearest
from ..checkpoints.files import check_fits, read_training_checkpoint
from ..checkpoints.weights import load, read_weights, translate
from ..errors import InputError
from .classifier import create_backbone


class TakesOfficial(nn.Module, ABC):
    """A module that takes the authors' weights wherever it loads its own."""

    @abstractmethod
    def rename(self, state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """Weights, the module's among them (under ``prefix``) by our names."""

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """Rename, then load."""
        renamed = self.rename(state_dict, prefix)
        state_dict.clear()
        state_dict.update(renamed)
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class StateScanBackbone(TakesOfficial, BaseModule):
    """Feature maps of a registered model, as necks and heads of OpenMMLab take them.

    Images (B, C, H, W) of any size → a tuple of maps (B, C_i, H_i, W_i), one for each of
    ``out_indices``. What those do not need is left out: the classifier, the last norm, later
    stages. ``out_channels`` and ``strides`` say what the maps are.

    Weights are drawn when the model is built and read by ``init_weights()``, which MMEngine's
    runner calls before a training: a model that gets a checkpoint of its own needs no others.

    Args:
        name: Registered name, such as ``"vmamba_tiny_s1l8"``.
        out_indices: Stages, or blocks of models without stages, whose maps are taken; None for all
            four stages, or the last block of each quarter.
        out_norms: Give each map a LayerNorm of its own, as published detectors and segmenters do;
            or the numbers of those that get one.
        frozen_stages: The stem and so many stages (or blocks) are not trained, with their
            out-norms; -1 for none.
        norm_eval: Keep batch norms in evaluation mode.
        pretrained: Take the ImageNet weights that the authors published.
        checkpoint_path: Take the weights of a file or URL; short for an ``init_cfg``.
        grad_checkpointing: Recompute each block in the backward pass.
        init_cfg: ``dict(type="Pretrained", checkpoint=path or URL)``, with ``prefix="backbone."``
            where the file is of a whole detector or segmenter, the authors' or ours. Every weight
            must find its place and none be missing, but for out-norms that a classifier lacks.
        **kwargs: Arguments of the model, such as ``drop_path_rate``.

    Raises:
        InputError: No model has this name, or an argument does not fit the model.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] | None = None,
        out_norms: bool | Sequence[int] = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        pretrained: bool = False,
        checkpoint_path: str = "",
        grad_checkpointing: bool = False,
        init_cfg: dict | None = None,
        **kwargs,
    ):
        super().__init__()
        if name not in list_models():
            raise InputError(f"there is no backbone {name!r}: {nearest(name, list_models())}")
        self.source = _choose_source(pretrained, checkpoint_path, init_cfg)
        self.norm_eval = norm_eval
        self.create = {"name": name, "out_norms": out_norms, **kwargs}
        self.model = create_backbone(**self.create)
        levels = len(self.model.levels)
        self.out_indices = _check_indices(out_indices, levels)
        self.frozen_stages = _check_frozen(frozen_stages, levels)
        info = [self.model.feature_info[i] for i in self.out_indices]
        self.out_channels = [level["num_chs"] for level in info]
        self.strides = [level["reduction"] for level in info]
        self.left_out = self._prune()
        self.model.set_grad_checkpointing(grad_checkpointing)
        self._freeze()

    def _prune(self) -> set[str]:
        """Leave out what the maps do not need; returns its names."""
        names = set(self.model.state_dict())
        self.model.prune_intermediate_layers(list(self.out_indices), prune_norm=True)
        return names - set(self.model.state_dict())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C_i, H_i, W_i) of images x (B, C, H, W)."""
        return tuple(
            self.model.forward_intermediates(
                x, indices=list(self.out_indices), intermediates_only=True
            )
        )

    def init_weights(self) -> None:
        """Read the weights that were asked for; others stay as the model drew them.

        Raises:
            InputError: They cannot be fetched, or are not of this model.
        """
        if self.source == {"pretrained": True}:
            weights = _fetch_pretrained(**self.create).state_dict()
            load(self.model, weights, self.left_out, "published for ImageNet")
        elif self.source:
            weights = read_weights(**self.source)
            load(self.model, weights, self.left_out, self.source["source"])
        self._is_init = True

    def train(self, mode: bool = True) -> StateScanBackbone:
        """Set the mode, but for what is frozen."""
        super().train(mode)
        for name, module in self.model.named_modules():
            if self._is_frozen(name) or (self.norm_eval and isinstance(module, _BatchNorm)):
                module.eval()
        return self

    def _freeze(self) -> None:
        """Train no parameter that is frozen, or that no map depends on."""
        unused = self.model.unused_parameters()
        for name, parameter in self.model.named_parameters():
            if name in unused or self._is_frozen(name):
                parameter.requires_grad_(False)

    def _is_frozen(self, name: str) -> bool:
        """Whether a parameter or module of the model is in the stem or the first levels."""
        if self.frozen_stages < 0:
            return False
        level = re.match(rf"(?:{self.model.levels_name}|out_norms)\.(\d+)(?:\.|$)", name)
        if level:
            return int(level[1]) < self.frozen_stages
        return bool(re.match(self.model.group_matcher()["stem"], name))

    def rename(self, state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
        """A detector's weights, the backbone's among them (under ``prefix``) by our names.

        In the authors' checkpoints no ``model.`` follows the prefix.
        """
        inside = f"{prefix}model."
        theirs = {k for k in state_dict if k.startswith(prefix) and not k.startswith(inside)}
        if not theirs:
            return dict(state_dict)
        weights = {k.removeprefix(prefix): state_dict[k] for k in state_dict if k in theirs}
        own = translate(weights, self.model, self.left_out)
        others = {k: v for k, v in state_dict.items() if k not in theirs}
        return others | {inside + k: v for k, v in own.items()}


def rename_backbones(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A detector's or segmenter's weights, the authors' or ours, by our names."""
    for name, module in model.named_modules():
        if isinstance(module, TakesOfficial):
            state_dict = module.rename(state_dict, f"{name}." if name else "")
    return dict(state_dict)


def read_fitting(
    path: str | Path, model: nn.Module, map_location="cpu", required=("state_dict",)
) -> dict:
    """Read a checkpoint of a whole model, the authors' or ours, its weights by our names.

    Args:
        path: File to read; no code in it is run.
        model: What it must fit, name by name and shape by shape.
        map_location: Device for its tensors, as in :func:`torch.load`.
        required: Keys it must have.

    Raises:
        InputError: The file is missing or damaged, lacks a key or is of another model.
    """
    checkpoint = read_training_checkpoint(path, map_location, required)
    checkpoint["state_dict"] = rename_backbones(checkpoint["state_dict"], model)
    check_fits(path, checkpoint["state_dict"], model)
    return checkpoint


def _choose_source(pretrained: bool, checkpoint_path: str, init_cfg: dict | None) -> dict:
    """What ``init_weights`` is to read: at most one of the three ways to say it."""
    chosen = [bool(pretrained), bool(checkpoint_path), bool(init_cfg)]
    if sum(chosen) > 1:
        raise InputError("give only one of pretrained, checkpoint_path and init_cfg")
    if pretrained:
        return {"pretrained": True}
    if checkpoint_path:
        return {"source": checkpoint_path}
    return _from_init_cfg(**init_cfg) if init_cfg else {}


def _from_init_cfg(type: str, checkpoint: str = "", prefix: str | None = None) -> dict:
    if type != "Pretrained" or not checkpoint:
        raise InputError(
            f"init_cfg has type {type!r} and checkpoint {checkpoint!r}, expected type 'Pretrained'"
            " and a path or URL"
        )
    return {"source": checkpoint, "prefix": prefix or ""}


def _check_indices(out_indices: Sequence[int] | None, levels: int) -> tuple[int, ...]:
    if out_indices is None:
        return tuple(quarter * levels // 4 - 1 for quarter in (1, 2, 3, 4))
    if not out_indices or not set(out_indices) <= set(range(levels)):
        raise InputError(
            f"out_indices is {out_indices}, expected numbers of 0 to {levels - 1}, one or more"
        )
    if list(out_indices) != sorted(set(out_indices)):
        raise InputError(f"out_indices is {out_indices}, expected rising numbers")
    return tuple(out_indices)


def _check_frozen(frozen_stages: int, levels: int) -> int:
    if frozen_stages not in range(-1, levels + 1):
        raise InputError(f"frozen_stages is {frozen_stages}, expected -1 to {levels}")
    return frozen_stages


def _fetch_pretrained(name: str, **kwargs) -> nn.Module:
    """The model with its published weights, out-norms included that those lack."""
    try:
        return create_backbone(name, pretrained=True, **kwargs)
    except (OSError, RuntimeError) as error:
        raise InputError(f"pretrained weights of {name}: {error}") from error

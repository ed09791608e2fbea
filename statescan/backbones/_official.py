"""Building our models from the authors' own constructor arguments and weights."""

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import timm
from timm.models import model_entrypoint
from torch import Tensor, nn

from ..errors import nearest
from ._contract import Backbone

T = TypeVar("T")

# family: (its file, its model class or the function that makes its model)
FAMILIES = {
    "vmamba": ("vmamba", "VMamba"),
    "efficientvmamba": ("efficientvmamba", "EfficientVMamba"),
    "localvmamba": ("localvmamba", "LocalVMamba"),
    "spatial_mamba": ("spatial_mamba", "SpatialMamba"),
    "groupmamba": ("groupmamba", "GroupMamba"),
    "msvmamba": ("msvmamba", "MSVMamba"),
    "msvmamba_v3": ("msvmamba", "MSVMamba"),
    "vssd": ("vssd", "VSSD"),
    "vim": ("vim", "Vim"),
    "localvim": ("localvim", "LocalVim"),
    "hrvmamba": ("hrvmamba", "HRVMamba"),
    "plainmamba": ("plainmamba", "PlainMamba"),
    "mamba_yolo": ("mamba_yolo_detector", "mamba_yolo_detector"),
    "mhs_vm": ("mhs_vm", "MHSVMUNet"),
}


def choose(name: str, value: Any, choices: Mapping[Any, T]) -> T:
    """What an official argument's value means to us; refuses one that no published model has."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, choices))}")
    return choices[value]


def refuse_unpublished(**arguments: tuple[Any, Any]) -> None:
    """Refuse official arguments, each (value, the published models' value), that differ."""
    for name, (value, published) in arguments.items():
        choose(name, value, {published: published})


def list_models(filter: str | Sequence[str] = "", task: str | None = None) -> list[str]:
    """Names of this package's models that match a wildcard, such as "vmamba_*".

    Args:
        filter: the wildcard, or several; everything by default.
        task: only models for "classification" or for "segmentation".
    """
    if task not in (None, *TASKS):
        raise ValueError(f"task is {task!r}: {nearest(str(task), TASKS)}")
    ours = __package__.partition(".")[0] + "."
    names = [n for n in timm.list_models(filter) if model_entrypoint(n).__module__.startswith(ours)]
    return [n for n in names if task is None or model_task(n) == task]


TASKS = ("classification", "segmentation")


def model_task(name: str) -> str:
    """What a model does: without a pooled map in its configuration, it classifies pixels."""
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
    return "segmentation" if cfg.pool_size is None else "classification"


def from_official(
    family: str,
    official_kwargs: Mapping[str, Any],
    state_dict: Mapping[str, Tensor] | None = None,
    **overrides: Any,
) -> nn.Module:
    """A model of ours from the arguments, and weights, of the authors' constructor.

    Args:
        family: name of the family, such as "vmamba"; "mamba_yolo" makes the whole detector.
        official_kwargs: arguments of the official model class.
        state_dict: the official weights; every one must find its place and none be missing. With
            a detection or segmentation backbone's weights the model gets their out-norms, and no
            classifier if they hold none.
        **overrides: arguments of our model class that replace the translated ones.

    Raises:
        ValueError: for an unknown family or an argument no published model has.
        RuntimeError: for missing, unknown or misshapen weights, naming them.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}: {nearest(family, FAMILIES)}")
    file, model_class = FAMILIES[family]
    module = import_module(f".{file}", __package__)
    kwargs = module.from_official_kwargs(**official_kwargs)
    kwargs["out_norms"] = out_norms_in(state_dict or {})
    model = getattr(module, model_class)(**{**kwargs, **overrides})
    if state_dict is not None:
        load_official(model, state_dict)
    return model


def out_norms_in(state_dict: Mapping[str, Tensor]) -> list[int]:
    """The stages that a detection or segmentation backbone normalises, by the authors' names."""
    matches = (re.fullmatch(r"(?:outnorm_?|norm_layer)(\d+)\.weight", key) for key in state_dict)
    return sorted(int(match[1]) for match in matches if match)


def load_official(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load strictly, after leaving out a backbone's last norm and classifier that it lacks."""
    own = model.checkpoint_filter_fn(state_dict, model)
    if isinstance(model, Backbone) and "head.fc.weight" not in own:
        model.prune_intermediate_layers(None, prune_norm="norm.weight" not in own)
    model.load_state_dict(own)

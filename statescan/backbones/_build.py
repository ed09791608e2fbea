"""What every family's configurations and entry points share."""

from typing import TypeVar

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from ._checkpoint import unwrapped

M = TypeVar("M", bound=nn.Module)
DRIVE = "weights: Google Drive "


def imagenet_cfg(**kwargs) -> dict:
    """A pretrained configuration for ImageNet-1k at 224 pixels, and what a model adds."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head.fc",
        **kwargs,
    }


def on_google_drive(name: str, kind: str = "file") -> dict:
    """What a configuration says of weights that lie there alone, where no URL fetches them.

    Args:
        name: the file's or folder's id.
        kind: "file" or "folder".
    """
    return {"url": "", "description": f"{DRIVE}{kind} {name}"}


def build(model_class: type[M], variant: str, pretrained: bool, **kwargs) -> M:
    """A model by timm's builder, with weights through the class's filter.

    Raises:
        RuntimeError: if its weights are asked for and no URL fetches them; says what does.
    """
    if pretrained:
        _refuse_unfetchable(variant, kwargs)
    kwargs.setdefault("feature_cfg", {"out_indices": 4, "feature_cls": "getter"})  # the last four
    filter_fn = unwrapped(model_class.checkpoint_filter_fn)
    return build_model_with_cfg(
        model_class, variant, pretrained, pretrained_filter_fn=filter_fn, **kwargs
    )


def _refuse_unfetchable(variant: str, kwargs: dict) -> None:
    chosen = (kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
    cfg = resolve_pretrained_cfg(variant, *chosen)
    description = cfg.description or ""
    if description.startswith(DRIVE) and not (cfg.has_weights or cfg.state_dict):
        kind, name = description.removeprefix(DRIVE).split()
        command = f"gdown --folder {name}" if kind == "folder" else f"gdown {name}"
        raise RuntimeError(
            f"the weights of {variant} lie on Google Drive, where no URL fetches them: run"
            f" `{command}` and pass its file as checkpoint_path"
        )

"""Weights of backbones out of classifiers, detectors and segmenters, ours and the authors'."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import urlparse

from timm.models._hub import download_cached_file
from torch import Tensor, nn

from ...backbones import read_checkpoint
from ..errors import InputError
from .files import as_input_errors


def fetch(source: str | Path) -> Path:
    """The file itself, or a URL's file in timm's cache."""
    if urlparse(str(source)).scheme in ("http", "https"):
        return Path(download_cached_file(str(source), check_hash=False))
    return Path(source)


def read_weights(source: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """Weights of a file or URL, such as MMEngine writes them; no code in it is run.

    Args:
        source: Path or URL of a torch or .safetensors file.
        prefix: Take only what is under it, such as ``"backbone."``, and leave it away.

    Raises:
        InputError: The file is missing or damaged, or holds nothing under the prefix.
    """
    with as_input_errors():
        weights = read_checkpoint(fetch(source))
    return under(weights, prefix, source) if prefix else weights


def under(weights: Mapping[str, Tensor], prefix: str, source: str | Path) -> dict[str, Tensor]:
    """The weights under a prefix, without it.

    Raises:
        InputError: There are none; says what there is.
    """
    prefix = prefix.rstrip(".") + "."
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    if not own:
        found = ", ".join(sorted({k.partition(".")[0] + "." for k in weights}))
        raise InputError(f"checkpoint {source} has no weights under {prefix!r}, only {found}")
    return own


def translate(weights: Mapping[str, Tensor], model: nn.Module, left_out: Collection[str]) -> dict:
    """A backbone's weights under our names, without those that it leaves out.

    Args:
        weights: The authors', or ours, perhaps from inside of a ``StateScanBackbone``.
        model: One of our timm models.
        left_out: Names of what ``model`` once had.
    """
    weights = {k.removeprefix("model."): v for k, v in weights.items()}
    own = model.checkpoint_filter_fn(weights, model)
    return {k: v for k, v in own.items() if k not in left_out}


def load(
    model: nn.Module, weights: Mapping[str, Tensor], left_out: Collection[str], source: str | Path
) -> None:
    """Load strictly; a classifier's weights, which have no out-norms, leave those as they are.

    Raises:
        InputError: Weights are missing, unknown or misshapen, or of another model.
    """
    own = translate(weights, model, left_out)
    if not any(k.startswith("out_norms.") for k in own):
        own |= {k: v for k, v in model.state_dict().items() if k.startswith("out_norms.")}
    try:
        model.load_state_dict(own)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"checkpoint {source}{_prefix_hint(weights)}: {error}") from error


def _prefix_hint(weights: Mapping[str, Tensor]) -> str:
    """What to say of a file that may be of a whole detector."""
    inside = any(k.startswith("backbone.") for k in weights)
    return ", of which prefix='backbone.' would take the backbone's part" if inside else ""

"""Reading checkpoints: nothing unpickled but tensors, nothing dropped in silence."""

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

# Where training programs keep the weights, the averaged ones first.
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


def read_plain(path: str | Path, map_location: str = "cpu") -> Any:
    """What a .safetensors or torch file holds, if that is plain data: no code is run.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or holds other Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {str(path)!r} does not exist")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device=map_location)
        _compare_checksums(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        objects = ", ".join(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        raise ValueError(
            f"checkpoint {str(path)!r} was not loaded: besides plain data it holds {objects}"
        ) from error
    except (RuntimeError, EOFError, OSError, zipfile.BadZipFile, SafetensorError) as error:
        raise ValueError(
            f"checkpoint {str(path)!r} is damaged and was not loaded: {error}"
        ) from error


def _compare_checksums(path: Path) -> None:
    """Compare every part of the zip file with its checksum, which torch itself does not."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(f"{damaged} does not match its checksum")


class _Ignored:
    """Stands for the objects in the logs that MMEngine keeps in its checkpoints."""

    def __new__(cls, *args):
        return super().__new__(cls)

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


class _Plain:
    """Stands for the configuration in VMamba's checkpoints, a dictionary of a class of its own."""

    def __new__(cls):
        return OrderedDict()  # which torch fills without calling code


# For good, because timm itself reads what checkpoint_path and pretrained name.
torch.serialization.add_safe_globals([(_Plain, "yacs.config.CfgNode")])


LOG_OBJECTS = (
    *("mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr"),
    *("numpy.ndarray", "numpy.dtype"),
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
)


@contextmanager
def without_logs():
    """Read MMEngine's own checkpoints without making the objects of their logs."""
    harmless = [(_Ignored, name) for name in LOG_OBJECTS]
    with torch.serialization.safe_globals(harmless):
        yield


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Weights of a .safetensors or torch file, out of whatever container they lie in.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, holds more than plain data, or holds no weights.
    """
    with without_logs():
        state_dict = unwrap(read_plain(path))
    if not state_dict:
        raise ValueError(f"checkpoint {str(path)!r} holds no weights")
    return state_dict


def unwrap(checkpoint: object) -> dict[str, Tensor]:
    """The tensors of a checkpoint, without container and wrapper prefixes."""
    if not isinstance(checkpoint, Mapping):
        return {}
    for name in CONTAINERS:
        if isinstance(checkpoint.get(name), Mapping):
            checkpoint = checkpoint[name]
            break
    prefix = re.compile(rf"^({'|'.join(map(re.escape, WRAPPERS))})+")
    return {prefix.sub("", k): v for k, v in checkpoint.items() if isinstance(v, Tensor)}


def rename(state_dict: Mapping[str, Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Every key rewritten by every rule (pattern, replacement) in turn."""
    renamed = {}
    for key, value in state_dict.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    return renamed


def stack_numbered(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named `key/0`, `key/1`, ... as one tensor `key`, the others as they are."""
    stacked, parts = {}, {}
    for name, value in state_dict.items():
        key, slash, number = name.partition("/")
        if slash:
            parts.setdefault(key, {})[int(number)] = value
        else:
            stacked[key] = value
    return stacked | {k: torch.stack([v[i] for i in sorted(v)]) for k, v in parts.items()}


def scan_names(mixer: str) -> tuple[tuple[str, str], ...]:
    """Rules that rewrite the names in VMamba's SS2D, which many families took over, to `Scan2d`'s.

    Args:
        mixer: pattern of what its name ends in, a regular expression.
    """
    names = (
        (r"conv2d\.", "conv."),
        (r"out_norm\.", "norm."),
        (r"x_proj_weight$", "s6.x_proj_weight"),
        (r"dt_projs_", "s6.dt_proj_"),
        (r"A_logs$", "s6.A_log"),
        (r"Ds$", "s6.D"),
    )
    return tuple((rf"({mixer})\.{official}", rf"\1.{ours}") for official, ours in names)


# VMamba's stages, which end with the downsampling that ours start with, and detection's out-norms.
STAGE_NAMES = (
    (r"^outnorm(\d+)\.", r"out_norms.\1."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
    (r"^layers\.", "stages."),
)


def check_foreign(state_dict: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuse weights of another model in one sentence instead of a page of key names."""
    if not state_dict.keys() & model.state_dict().keys():
        raise ValueError(
            f"state_dict holds {next(iter(state_dict))!r} and {len(state_dict) - 1} more, none of "
            f"which {type(model).__name__} has: is it a checkpoint of another model?"
        )


def unwrapped(
    filter_fn: Callable[[Mapping, nn.Module], dict],
) -> Callable[[Mapping, nn.Module], dict]:
    """A filter function for what timm downloads, which hands it over in its container.

    Out-norms, which no classifier has, stay as they are.
    """

    def unwrap_and_filter(checkpoint: Mapping, model: nn.Module) -> dict:
        new = {k: v for k, v in model.state_dict().items() if k.startswith("out_norms.")}
        return new | filter_fn(unwrap(checkpoint), model)

    return unwrap_and_filter


def match_one_route(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Add the first dimension that S6's parameters have where the authors' only scan has none."""
    wanted = model.state_dict()
    return {
        key: value.unsqueeze(0)
        if key in wanted and wanted[key].shape == (1, *value.shape)
        else value
        for key, value in state_dict.items()
    }


def match_shapes(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """1x1 convolutions (O, I, 1, 1) as (O, I), a scan's (K·C, ·) as (K, C, ·), where ours are."""
    wanted = model.state_dict()
    return {
        key: _matched(value, wanted[key]) if key in wanted else value
        for key, value in state_dict.items()
    }


def _matched(value: Tensor, wanted: Tensor) -> Tensor:
    if value.shape[wanted.dim() :] == (1, 1):
        return value.flatten(1)
    if value.dim() < wanted.dim() and value.shape[0] == wanted.shape[:2].numel():
        return value.unflatten(0, wanted.shape[:2])
    return value

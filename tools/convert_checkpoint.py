"""Convert an official checkpoint to our names: a .safetensors file that timm and we load.

    python tools/convert_checkpoint.py --model vmamba_tiny_s1l8 official.pth ours.safetensors

Every weight must find its place and none may be missing. With `--prefix backbone.` a detector's or
segmenter's checkpoint gives its backbone with the norms that belong to it, and a checkpoint of
tools/train.py its model.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import timm
from safetensors.torch import save_file
from torch import nn

import statescan
from statescan.backbones import load_official, out_norms_in
from statescan.errors import nearest


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "source", type=Path, help="official checkpoint (.pth, .ckpt or .safetensors)"
    )
    parser.add_argument("target", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--model", required=True, help="registered name, such as vmamba_tiny_s1l8")
    parser.add_argument(
        "--prefix", default="", help="take only weights under it, such as backbone."
    )
    return parser.parse_args()


def select(state_dict: dict, prefix: str) -> dict:
    """The weights under a prefix, without it; says which others are left out."""
    left_out = Counter(key.split(".")[0] for key in state_dict if not key.startswith(prefix))
    for name, count in left_out.items():
        print(f"left out: {count} weights under {name}.")
    return {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}


def build(name: str, weights: dict) -> nn.Module:
    """The registered model with the classes, image channels and out-norms of the weights."""
    model = timm.create_model(name, device="meta", out_norms=out_norms_in(weights))
    ours = model.checkpoint_filter_fn(weights, model)
    first_conv, classifier = (model.pretrained_cfg[k] for k in ("first_conv", "classifier"))
    sizes = {}
    if f"{first_conv}.weight" in ours:
        sizes["in_chans"] = ours[f"{first_conv}.weight"].shape[1]
    if f"{classifier}.weight" in ours:
        sizes["num_classes"] = ours[f"{classifier}.weight"].shape[0]
    return timm.create_model(name, out_norms=out_norms_in(weights), **sizes)


def convert(source: Path, target: Path, name: str, prefix: str = "") -> int:
    """Convert source to target for a registered model; returns the number of weights.

    Raises:
        FileNotFoundError: if source does not exist.
        ValueError: if a name is unknown, or source is damaged or of another model.
        RuntimeError: if weights are missing, unknown or misshapen, naming them.
    """
    if target.suffix != ".safetensors":
        raise ValueError(f"target is {str(target)!r}, expected a name ending in .safetensors")
    if name not in statescan.list_models():
        raise ValueError(f"model is {name!r}: {nearest(name, statescan.list_models())}")
    weights = select(statescan.read_checkpoint(source), prefix)
    model = build(name, weights)
    load_official(model, weights)
    converted = model.state_dict()
    save_file(converted, target, metadata={"model": name, "source": source.name})
    return len(converted)


def main() -> None:
    """Convert, or end with one sentence."""
    args = parse_args()
    try:
        count = convert(args.source, args.target, args.model, args.prefix)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {args.target}: {count} weights of {args.model}")


if __name__ == "__main__":
    main()

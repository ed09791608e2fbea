#!/usr/bin/env python
"""Export a model to ONNX, or to a program that torch runs without this library, and check it.

    python tools/export.py vmamba_tiny_s1l8 model.onnx --checkpoint official.pth
    python tools/export.py vmamba_tiny_s1l8 model.pt2 --dynamic       # any batch, height and width
    python tools/export.py vmamba_tiny_s1l8 maps.onnx --features      # feature maps, for a head

The file is read back, by onnxruntime or torch, and its answers on random images are compared with
the model's before it takes its place. ONNX needs `pip install -e '.[export]'`.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import statescan
from statescan.errors import nearest

LARGEST_ERROR = 1e-3  # of an output, relative to its norm, in float32


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="registered name, such as vmamba_tiny_s1l8")
    parser.add_argument("target", type=Path, help="file to write (.onnx or .pt2)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="official or own weights")
    weights.add_argument("--pretrained", action="store_true", help="download the authors' weights")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of images")
    parser.add_argument("--batch", type=int, default=1, help="images at a time")
    parser.add_argument("--dynamic", action="store_true", help="any batch, height and width")
    parser.add_argument("--features", action="store_true", help="feature maps instead of logits")
    args = parser.parse_args()
    if args.target.suffix not in FORMATS:
        parser.error(f"target is {str(args.target)!r}, expected a name ending in .onnx or .pt2")
    if args.model not in statescan.list_models():
        parser.error(f"model is {args.model!r}: {nearest(args.model, statescan.list_models())}")
    return args


def export(model: nn.Module, image: Tensor, dynamic: bool) -> ExportedProgram:
    """The model in operators of torch; if dynamic, for any batch, height and width."""
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if dynamic else None
    program = torch.export.export(model, (image,), dynamic_shapes=(sizes,))
    return program.run_decompositions(statescan.decompositions())


def write_onnx(program: ExportedProgram, path: Path) -> None:
    """Write ONNX; weights lie in a second file beside it where one cannot hold them."""
    torch.onnx.export(program, dynamo=True, verbose=False).save(path)


def run_onnx(path: Path, image: Tensor) -> Sequence[Tensor]:
    """The outputs of a file, by onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    return [torch.from_numpy(output) for output in outputs]


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a program of torch's."""
    torch.export.save(program, path)


def run_program(path: Path, image: Tensor) -> Sequence[Tensor]:
    """The outputs of a file, by torch."""
    return as_list(torch.export.load(path).module()(image))


FORMATS = {".onnx": (write_onnx, run_onnx), ".pt2": (write_program, run_program)}


def as_list(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A model's outputs, one or many."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def error(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The largest error of an output, relative to its norm."""
    pairs = zip(got, want, strict=True)
    return max(float((g - w).norm() / w.norm().clamp_min(1e-12)) for g, w in pairs)


def check(model: nn.Module, file: Path, images: Sequence[Tensor]) -> float:
    """The largest error of a file's answers to some images.

    Raises:
        ValueError: if it is too large.
    """
    _, run = FORMATS[file.suffix]
    worst = max(error(run(file, image), as_list(model(image))) for image in images)
    if not worst <= LARGEST_ERROR:
        raise ValueError(
            f"the file's answers differ by {worst:.0e}, of {LARGEST_ERROR:.0e} allowed"
        )
    return worst


def random_images(shape: Sequence[int], dynamic: bool) -> list[Tensor]:
    """Images of a shape (B, C, H, W), and if dynamic, one of another batch and size."""
    rng = torch.Generator().manual_seed(0)
    shapes = [shape]
    if dynamic:
        batch, channels, height, width = shape
        shapes.append((batch + 1, channels, height + 33, width + 65))
    return [torch.randn(shape, generator=rng) for shape in shapes]


def build(args: argparse.Namespace) -> nn.Module:
    """The model in evaluation, with its weights."""
    checkpoint = "" if args.checkpoint is None else str(args.checkpoint)
    options = {"features_only": True} if args.features else {}
    if args.features and checkpoint:  # timm reads checkpoints into whole models
        overlay = {"file": checkpoint}
        options |= {"pretrained": True, "pretrained_cfg_overlay": overlay}
    elif checkpoint:
        options["checkpoint_path"] = checkpoint
    return timm.create_model(args.model, **{"pretrained": args.pretrained} | options).eval()


def convert(args: argparse.Namespace) -> float:
    """Export, check, and put the file in its place; returns its error."""
    model = build(args)
    _, height, width = timm.data.resolve_model_data_config(model)["input_size"]
    height, width = args.size or (height, width)
    batch = max(2, args.batch) if args.dynamic else args.batch  # torch takes 1 for a constant
    images = random_images((batch, 3, height, width), args.dynamic)
    write, _ = FORMATS[args.target.suffix]
    with TemporaryDirectory(dir=args.target.parent) as folder, torch.no_grad():
        unchecked = Path(folder, args.target.name)
        write(export(model, images[0], args.dynamic), unchecked)
        worst = check(model, unchecked, images)
        for file in sorted(Path(folder).iterdir(), key=unchecked.__eq__):  # last what names others
            os.replace(file, args.target.with_name(file.name))
    return worst


def main() -> None:
    """Export, or end with one sentence."""
    args = parse_args()
    warnings.filterwarnings("ignore", "`isinstance\\(treespec", FutureWarning)  # torch's own
    try:
        worst = convert(args)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {args.target}: answers as {args.model}'s, largest relative error {worst:.0e}")


if __name__ == "__main__":
    main()

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
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import statescan
from statescan.errors import nearest

LARGEST_ERROR = 1e-3  # of an output, relative to its norm, in float32
REPEATS = 3  # of a measured time


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="registered name, such as vmamba_tiny_s1l8")
    parser.add_argument("target", type=Path, help="file to write (.onnx or .pt2)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", type=Path, help="official or own weights")
    weights.add_argument("--pretrained", action="store_true", help="download the authors' weights")
    parser.add_argument("--num-classes", type=int, help="of the weights; default the authors'")
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


def open_onnx(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """What answers from a file, by onnxruntime on the CPU, with torch's number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    return lambda x: [torch.from_numpy(y) for y in session.run(None, {image.name: x.numpy()})]


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write a program of torch's."""
    torch.export.save(program, path)


def open_program(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """What answers from a file, by torch."""
    program = torch.export.load(path).module()
    return lambda x: as_list(program(x))


FORMATS = {".onnx": (write_onnx, open_onnx), ".pt2": (write_program, open_program)}


def as_list(outputs: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """A model's outputs, one or many."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def error(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """The largest error of an output, relative to its norm."""
    pairs = zip(got, want, strict=True)
    return max(float((g - w).norm() / w.norm().clamp_min(1e-12)) for g, w in pairs)


def check(model: nn.Module, answer: Callable, images: Sequence[Tensor]) -> float:
    """The largest error of a file's answers to some images.

    Raises:
        ValueError: if it is too large.
    """
    worst = max(error(answer(image), as_list(model(image))) for image in images)
    if not worst <= LARGEST_ERROR:
        raise ValueError(f"the file's answers differ by {worst:.0e}, more than {LARGEST_ERROR:.0e}")
    return worst


def compare_times(model: nn.Module, answer: Callable, image: Tensor) -> float:
    """How many times the model's time a file's answer takes: of the shortest of some each."""
    times = [(seconds(model, image), seconds(answer, image)) for _ in range(REPEATS)]
    ours, theirs = (min(column) for column in zip(*times, strict=True))
    return theirs / ours


def seconds(call: Callable, image: Tensor) -> float:
    """The time of a call."""
    start = time.perf_counter()
    call(image)
    return time.perf_counter() - start


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
    options = {"pretrained": args.pretrained, "features_only": args.features}
    if args.num_classes is not None:
        options["num_classes"] = args.num_classes
    if args.checkpoint is not None:
        source = {k: v for k, v in options.items() if k == "num_classes"}
        options["pretrained_cfg_overlay"] = source | {"file": str(args.checkpoint)}
        options["pretrained"] = True
    return timm.create_model(args.model, **options).eval()


def convert(args: argparse.Namespace) -> tuple[float, float]:
    """Export, check, and put the file in its place; its error, and its time beside the model's."""
    model = build(args)
    _, height, width = timm.data.resolve_model_data_config(model)["input_size"]
    height, width = args.size or (height, width)
    batch = max(2, args.batch) if args.dynamic else args.batch  # torch takes 1 for a constant
    images = random_images((batch, 3, height, width), args.dynamic)
    write, read = FORMATS[args.target.suffix]
    with TemporaryDirectory(dir=args.target.parent) as folder, torch.no_grad():
        unchecked = Path(folder, args.target.name)
        write(export(model, images[0], args.dynamic), unchecked)
        answer = read(unchecked)
        worst = check(model, answer, images)
        times = compare_times(model, answer, images[0])
        for file in sorted(Path(folder).iterdir(), key=unchecked.__eq__):  # last what names others
            os.replace(file, args.target.with_name(file.name))
    return worst, times


def main() -> None:
    """Export, or end with one sentence."""
    args = parse_args()
    warnings.filterwarnings("ignore", "`isinstance\\(treespec", FutureWarning)  # torch's own
    try:
        worst, times = convert(args)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {args.target}: answers as {args.model}'s, largest relative error {worst:.0e},")
    print(f"in {times:.1f} times its time here ({torch.get_num_threads()} CPU threads)")


if __name__ == "__main__":
    main()

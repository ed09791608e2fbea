"""`make test-mmcv-ext`: mmcv's functions with the real extension and with statescan's stand-in.

Needs an mmcv with its operators. Prints a table, one row an operator; fails where they differ.
"""

import importlib.metadata
import sys
import warnings
from pathlib import Path

import mmcv._ext as real
import torch
from mmcv.ops import MaskedConv2d

from statescan.mm.ops import extension as ours

SEEDS, TOLERANCE = 20, 1e-4  # of the greatest value, in float32


def random(*shape, low=-1.0, high=1.0):
    return torch.rand(*shape) * (high - low) + low


def leaf(*shape, **limits):
    return random(*shape, **limits).requires_grad_()


def rois(n=12, size=32.0):
    start = random(n, 2, low=-6, high=size)
    return torch.cat(
        [torch.randint(0, 2, (n, 1)), start, start + random(n, 2, low=0.1, high=size)], 1
    )


def boxes(n=80):
    start = torch.randint(0, 12, (n, 2))
    return torch.cat([start, start + torch.randint(1, 10, (n, 2))], 1).float()


def scores(n=80):
    return torch.randperm(n) / n


def apply(module, function):
    """mmcv's autograd function `function` of mmcv.ops.`module`."""
    return getattr(sys.modules[f"mmcv.ops.{module}"], function)


def deform(module, masked):
    x, stride = leaf(2, 4, 9, 8), int(torch.randint(1, 3, ()))
    groups, deform_groups = (int(n) for n in 2 ** torch.randint(0, 2, (2,)))
    size = [(n - 1) // stride + 1 for n in (9, 8)]
    offset, mask = (
        leaf(2, 18 * deform_groups, *size, low=-3, high=3),
        leaf(2, 9 * deform_groups, *size),
    )
    weight, window = leaf(6, 4 // groups, 3, 3), (stride, 1, 1, groups, deform_groups)
    if masked:
        inputs = (x, offset, mask, weight, leaf(6))
        return inputs, lambda: apply(module, "modulated_deform_conv2d")(*inputs, *window)
    inputs = (x, offset, weight)
    return inputs, lambda: apply(module, "deform_conv2d")(*inputs, *window)


def roi_align(mode, aligned):
    x, where, ratio = leaf(2, 3, 16, 17), rois(), int(torch.randint(0, 3, ()))
    return (x,), lambda: apply("roi_align", "roi_align")(
        x, where, (3, 4), 0.5, ratio, mode, aligned
    )


def roi_pool():
    x, where = leaf(2, 3, 16, 17), rois()
    return (x,), lambda: apply("roi_pool", "roi_pool")(x, where, (3, 4), 0.5)


def deform_roi_pool():
    x, where, shift = leaf(2, 3, 16, 17), rois(), leaf(12, 2, 3, 4)
    run = apply("deform_roi_pool", "deform_roi_pool")
    return (x, shift), lambda: run(x, where, shift, (3, 4), 0.5, 2)


def nms():
    inputs = boxes(), scores(), random(1, low=0.1, high=0.9).item(), int(torch.randint(0, 2, ()))
    return (), lambda: apply("nms", "nms")(*inputs)


def soft_nms(method):
    # Of equal scores the one that comes first differs: random numbers have none.
    inputs = boxes(), torch.rand(80), 0.3, 0.5, 0.05, method
    return (), lambda: apply("nms", "soft_nms")(*inputs)


def nms_match():
    dets = torch.cat([boxes(), scores()[:, None]], 1)
    return (), lambda: apply("nms", "nms_match")(dets, 0.4)


def bbox_overlaps(mode, aligned):
    first, second = boxes(), boxes()
    return (), lambda: apply("bbox", "bbox_overlaps")(first, second, mode, aligned)


def focal(kind):
    x, target = leaf(30, 5, low=-8, high=8), torch.randint(0, 5, (30,))
    return (x,), lambda: apply("focal_loss", f"{kind}_focal_loss")(x, target, 2.0, 0.25)


def attention():
    shapes, starts = torch.tensor([[6, 5], [3, 3]]), torch.tensor([0, 30])
    inputs = leaf(2, 39, 2, 4), leaf(2, 7, 2, 2, 3, 2, low=-0.2, high=1.2), leaf(2, 7, 2, 2, 3)
    run = apply("multi_scale_deform_attn", "MultiScaleDeformableAttnFunction").apply
    return inputs, lambda: run(inputs[0], shapes, starts, *inputs[1:], 64)


def carafe():
    inputs = leaf(2, 4, 5, 6), leaf(2, 50, 10, 12)
    return inputs, lambda: apply("carafe", "carafe")(*inputs, 5, 2, 2)


def psa_mask(kind):
    x = leaf(2, 63, 5, 6)
    return (x,), lambda: apply("psa_mask", "psa_mask")(x, kind, (7, 9))


def masked_conv():
    layer, x, mask = MaskedConv2d(3, 4, 3, padding=1), random(1, 3, 6, 7), torch.rand(1, 6, 7) > 0.5
    return (), lambda: layer(x, mask).detach()


CASES = {
    "nms": nms,
    **{f"softnms, {m}": lambda m=m: soft_nms(m) for m in ("naive", "linear", "gaussian")},
    "nms_match": nms_match,
    **{
        f"bbox_overlaps, {m}{', aligned' if a else ''}": lambda m=m, a=a: bbox_overlaps(m, a)
        for m in ("iou", "iof")
        for a in (False, True)
    },
    **{
        f"roi_align, {m}{', aligned' if a else ''}": lambda m=m, a=a: roi_align(m, a)
        for m in ("avg", "max")
        for a in (False, True)
    },
    "deform_conv": lambda: deform("deform_conv", masked=False),
    "modulated_deform_conv": lambda: deform("modulated_deform_conv", masked=True),
    "psamask, collect": lambda: psa_mask(0),
    "psamask, distribute": lambda: psa_mask(1),
    "roi_pool": roi_pool,
    "deform_roi_pool": deform_roi_pool,
    "sigmoid_focal_loss": lambda: focal("sigmoid"),
    "softmax_focal_loss": lambda: focal("softmax"),
    "ms_deform_attn": attention,
    "carafe": carafe,
    "masked_conv (im2col, col2im)": masked_conv,
}


def install(extension) -> None:
    """Makes every module of mmcv.ops call `extension`."""
    for name, module in sys.modules.items():
        if name.startswith("mmcv.ops.") and hasattr(module, "ext_module"):
            module.ext_module = extension


def results(case, seed: int, extension) -> tuple[list, list]:
    """Outputs and gradients of one call on inputs of this seed."""
    install(extension)
    torch.manual_seed(seed)
    inputs, run = case()
    outputs = run()
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    if not inputs:
        return outputs, []
    direction = torch.randn(outputs[0].shape, generator=torch.Generator().manual_seed(seed))
    return outputs, list(torch.autograd.grad(outputs[0], inputs, direction))


def difference(found: list, expected: list) -> float:
    """The greatest difference, in units of the greatest value; infinite where shapes differ."""
    if [x.shape for x in found] != [x.shape for x in expected]:
        return torch.inf
    pairs = [(a.double(), b.double()) for a, b in zip(found, expected, strict=True) if a.numel()]
    relative = [((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in pairs]
    return max(relative, default=0.0)


def compare(case) -> tuple[float, float] | None:
    """Greatest differences of outputs and of gradients, None where the real one has no kernel."""
    worst = (0.0, 0.0)
    for seed in range(SEEDS):
        try:
            expected = results(case, seed, real)
        except RuntimeError as error:
            if "not found" in str(error) or "is not compiled" in str(error):
                return None
            raise
        found = results(case, seed, ours)
        worst = tuple(
            max(w, difference(*pair)) for w, *pair in zip(worst, found, expected, strict=True)
        )
    return worst


def main() -> int:
    """Prints the table; 1 where an operator differs."""
    warnings.simplefilter("ignore")
    assert Path(real.__file__).suffix == ".so", f"{real.__file__} is not the compiled extension"
    names = ("onedl-mmcv", "torch", "torchvision")
    print(*(f"{name} {importlib.metadata.version(name)}" for name in names), sep=", ", end="\n\n")
    print("| Operator | Outputs | Gradients |\n| --- | --- | --- |")
    failed = []
    for name, case in CASES.items():
        worst = compare(case)
        if worst is None:
            print(f"| {name} | no CPU kernel in mmcv | |")
            continue
        gradient = f"{worst[1]:.1e}" if case()[0] else ""
        print(f"| {name} | {worst[0]:.1e} | {gradient} |")
        if max(worst) > TOLERANCE:
            failed.append(name)
    print(f"\n{SEEDS} random inputs each; differ: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())

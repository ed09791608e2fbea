"""MHS-VM's U-Net: what the classifiers' contract does not see."""

import pytest
import timm
import torch
from golden import case_names, load_case
from torch.export import Dim, export

import statescan
from statescan.backbones import MHSVMUNet

NAME = "test_mhs_vm_unet"
CASE_NAMES = case_names(["mhs_vm"])


def build(**kwargs):
    torch.manual_seed(0)
    return timm.create_model(NAME, **kwargs).eval()


def image(height, width, batch=2, channels=3):
    return torch.randn(batch, channels, height, width, generator=torch.manual_seed(1))


def test_unets_are_no_classifiers():
    assert NAME in statescan.list_models(task="segmentation")
    assert NAME not in statescan.list_models(task="classification")
    assert NAME in statescan.list_models()


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (5, 130), (1, 1)], ids=str)
@torch.no_grad()
def test_masks_have_the_images_size(size):
    for classes in (1, 3):
        model = build(num_classes=classes)
        logits, mask = model(image(*size)), model.predict(image(*size))
        assert logits.shape == mask.shape == (2, classes, *size)
        want = logits.sigmoid() if classes == 1 else logits.softmax(1)
        assert torch.equal(mask, want)


@pytest.mark.parametrize(
    "shape", [(2, 4, 33, 32), (2, 33, 32, 3), (3, 32, 32), (2, 3, 0, 32)], ids=str
)
def test_bad_images_are_named_as_they_came(shape):
    sentence = rf"x has shape \({', '.join(map(str, shape))}\), expected \(batch, 3, height, width"
    with pytest.raises(ValueError, match=sentence):
        build()(torch.zeros(shape))


@torch.no_grad()
def test_padding_is_zeros_right_and_below():
    model, x = build(), image(33, 47)
    padded = torch.nn.functional.pad(x, (0, 17, 0, 31))
    torch.testing.assert_close(model(x), model(padded)[..., :33, :47])


def test_the_threshold_is_an_argument():
    """It is not in a checkpoint, and it matters."""
    low, high = build(threshold=0.0), build(threshold=0.5)
    high.load_state_dict(low.state_dict())
    with torch.no_grad():
        assert not torch.allclose(low(image(32, 32)), high(image(32, 32)))


def test_gradients_reach_every_parameter_with_drop_path_and_checkpointing():
    gradients = []
    for recompute in (False, True):
        model = build(drop_path_rate=0.3).train()
        model.set_grad_checkpointing(recompute)
        torch.manual_seed(2)
        model(image(48, 48, batch=8)).square().mean().backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    plain, recomputed = gradients
    assert [n for n, g in plain.items() if g is None or not g.any()] == []
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, recomputed[name], rtol=1e-4, atol=1e-7)


@torch.no_grad()
def test_a_nan_stays_in_its_image():
    x = image(40, 40)
    x[0, 0, 7, 9] = torch.nan
    mask = build()(x)
    assert not mask[0].isfinite().all()
    assert mask[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype):
    model, x = build(), image(32, 48)
    want = model(x)
    got = model.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    # On average: at single pixels the attention over routes follows the rounding.
    assert (got.float() - want).abs().mean() < 0.1 * want.abs().mean()


@torch.no_grad()
def test_large_activations_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert build()(1e3 * image(32, 32)).isfinite().all()


@torch.no_grad()
def test_exports_with_any_batch_and_multiples_of_32():
    model, (down, across) = (
        build().double(),
        (Dim(name, min=2, max=16) for name in ("down", "across")),
    )
    shape = {0: Dim("batch"), 2: 32 * down, 3: 32 * across}
    program = export(model, (image(64, 96).double(),), dynamic_shapes=(shape,)).module()
    for x in (image(64, 96).double(), image(96, 128, batch=3).double()):
        torch.testing.assert_close(program(x), model(x))


@torch.no_grad()
def test_compiles_without_graph_break():
    model, x = build().double(), image(32, 32).double()  # the attention multiplies rounding
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


@torch.no_grad()
def test_grey_images_and_other_classes():
    model = build(in_chans=1, num_classes=4)
    assert model(image(32, 32, channels=1)).shape == (2, 4, 32, 32)
    model.reset_classifier(2)
    assert model(image(32, 32, channels=1)).shape == (2, 2, 32, 32)


@torch.no_grad()
def test_maps_are_the_encoders():
    maps = timm.create_model(NAME, features_only=True)(image(64, 64))
    assert [m.shape[1:] for m in maps] == [(16, 16, 16), (24, 8, 8), (32, 4, 4), (48, 2, 2)]


def test_second_names_of_weights_are_dropped_and_others_refused():
    case = load_case(CASE_NAMES[0])
    weights = case.group("sd.")
    first = next(key for key in weights if key.endswith("x_ssproj.weight"))
    weights[first.replace(".weight", "_W")] = weights[first]
    model = statescan.from_official("mhs_vm", case.kwargs)
    assert isinstance(model, MHSVMUNet)
    model.load_state_dict(weights)
    with pytest.raises(RuntimeError, match="unknown"):
        model.load_state_dict(weights | {"vmunet.unknown.weight": torch.zeros(1)})

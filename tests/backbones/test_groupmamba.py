"""What is GroupMamba's own."""

from functools import partial

import pytest
import timm
import torch
from golden import load_case
from torch import nn

import statescan
from statescan.backbones.groupmamba import EPS, ModulatedGroupScan
from statescan.scans.routes import ROUTE_SETS, column


def image(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def test_every_group_has_its_direction():
    model = timm.create_model("test_groupmamba")
    layer = model.stages[0].blocks[0].mixer
    assert tuple(scan.s6.routes[0] for scan in layer.groups) == ROUTE_SETS["cross"]


@pytest.mark.parametrize("routes", ["hilbert", ("raster", column)], ids=["hilbert", "two"])
def test_other_routes_by_one_keyword(routes):
    model = timm.create_model("test_groupmamba", routes=routes)
    model(image(40, 56)).sum().backward()
    assert len(model.stages[0].blocks[0].mixer.groups) == (2 if len(routes) == 2 else 4)
    assert len(model.head.block.mixer.groups) == (2 if len(routes) == 2 else 4)


def test_routes_must_divide_the_channels():
    with pytest.raises(ValueError, match="routes holds 3 routes, expected a divisor of the 32"):
        ModulatedGroupScan(32, routes=("raster", "raster", "raster"))


def test_gradients_on_maps_that_are_not_square():
    """The authors' own are not right there: see mistakes.py."""
    case = load_case("groupmamba/a")
    model = statescan.from_official(case.family, case.kwargs, case.group("sd.")).eval().double()
    x, direction = image(32, 80).double().requires_grad_(), image(32, 80).flip(3).double()
    slope = (torch.autograd.grad(model(x).sum(), x)[0] * direction).sum()
    with torch.no_grad():
        ahead, behind = (model(x + step * direction).sum() for step in (1e-6, -1e-6))
    torch.testing.assert_close(slope, (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_maps_between_stages_are_normalised():
    """`featnorm` of the fixture: what the next stage, or the class block's norm, makes of a map."""
    case = load_case("groupmamba/a")
    model = statescan.from_official(case.family, case.kwargs, case.group("sd.")).eval()
    maps = model.forward_intermediates(
        case.tensors["x"], output_fmt="NHWC", intermediates_only=True
    )
    norms = [*(stage.downsample[0] for stage in model.stages[1:]), model.head.norm]
    for i, (feature, norm) in enumerate(zip(maps, norms, strict=True)):
        want = case.tensors[f"featnorm.{i}"].permute(0, 2, 3, 1)
        torch.testing.assert_close(norm(feature), want, rtol=2e-5, atol=2e-5)


def test_norms_have_the_authors_epsilons():
    model = timm.create_model("groupmamba_tiny", device="meta")
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            inside = ".mixer." in name or name == "stem.norm" or name.endswith("downsample.1.norm")
            assert module.eps == (1e-5 if inside else EPS), name
        elif isinstance(module, nn.BatchNorm2d):
            assert module.eps == 1e-5, name


def test_distillation():
    """timm's convention: both classifiers' logits while training if asked for, else their mean."""
    model = timm.create_model("test_groupmamba", num_classes=5)
    x = image(64, 64)
    head, distilled = model.get_classifier()
    assert not torch.equal(head.weight, distilled.weight)
    with torch.no_grad():
        token = model.eval().forward_head(model.forward_features(x), pre_logits=True)
        want = (head(token), distilled(token))
        torch.testing.assert_close(model(x), (want[0] + want[1]) / 2)
        assert isinstance(model.train()(x), torch.Tensor)
        model.set_distilled_training()
        assert isinstance(model.eval()(x), torch.Tensor)
        head_logits, distilled_logits = model.train()(x)
    assert head_logits.shape == distilled_logits.shape == (2, 5)
    assert not torch.equal(head_logits, distilled_logits)


def test_classifiers_are_replaced_together():
    model = timm.create_model("test_groupmamba")
    model.reset_classifier(7)
    assert [fc.out_features for fc in model.get_classifier()] == [7, 7]
    plain = timm.create_model("test_groupmamba", distilled=False)
    assert isinstance(plain.get_classifier(), nn.Linear)


def test_no_class_block_without_a_class_token():
    model = timm.create_model("test_groupmamba", features_only=True).model
    assert not [name for name, _ in model.named_parameters() if name.startswith("head")]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"norm_layer": nn.LayerNorm}, "norm_layer is 1e-05, expected one of 1e-06"),
        ({"num_stages": 3}, "num_stages is 3, expected one of 4"),
    ],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    kwargs = load_case("groupmamba/a").kwargs | change
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("groupmamba", kwargs)


def test_official_norm_layer_as_the_authors_give_it():
    norm_layer = partial(nn.LayerNorm, eps=1e-6)
    kwargs = load_case("groupmamba/a").kwargs | {"norm_layer": norm_layer}
    assert statescan.from_official("groupmamba", kwargs).num_features == 32

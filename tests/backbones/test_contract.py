"""timm's contract, for every registered classifier. A new family is tested by being registered.

Full-size models run once on a small image; the tiny `test_*` models stand for the rest.
"""

import math

import pytest
import timm
import torch
from timm.models import group_parameters

import statescan
from statescan.layers import PatchStem

ALL = statescan.list_models(task="classification")
SMALL = statescan.list_models("test_*", task="classification")
SIZES = [(64, 64), (33, 47), (5, 130)]


def build(name, **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **kwargs).eval()


def image(*size, batch=2, channels=3):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(0))


def as_tuple(x):
    """Models trained by distillation have two classifiers, others one."""
    return x if isinstance(x, tuple) else (x,)


def test_names_are_registered():
    assert len(ALL) >= 11
    assert SMALL


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_classifies(name):
    model = build(name)
    x = image(64, 64, batch=1)
    features = model.forward_features(x)
    reduction = model.feature_info[-1]["reduction"]
    if model.output_fmt == "NHWC":
        assert features.shape == (1, 64 // reduction, 64 // reduction, model.num_features)
    else:
        final, maps = model.forward_intermediates(x, indices=1)
        tokens = model.num_prefix_tokens + maps[0][0, 0].numel()
        assert features.shape == final.shape == (1, tokens, model.num_features)
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    assert model(x).shape == (1, 1000)
    assert torch.equal(model(x), model.forward_head(features))


@pytest.mark.parametrize("name", ALL)
def test_structure(name):
    """What needs no numbers, on the meta device."""
    model = timm.create_model(name, device="meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    cfg = model.pretrained_cfg
    assert cfg["num_classes"] == 1000
    assert model.get_submodule(cfg["first_conv"]).weight.shape[1] == 3
    assert [model.get_submodule(n) for n in as_tuple(cfg["classifier"])] == [
        *as_tuple(model.get_classifier())
    ]
    for coarse in (False, True):
        groups = group_parameters(model, model.group_matcher(coarse=coarse))
        assert sum(map(len, groups.values())) == len(list(model.parameters()))
        assert len(groups) > (2 if coarse else 4)
    names = {n for n, _ in model.named_parameters()}
    assert model.no_weight_decay()
    assert model.no_weight_decay() < names
    reductions = [info["reduction"] for info in model.feature_info]
    if model.output_fmt == "NHWC":
        assert reductions == [4, 8, 16, 32]
    else:
        assert len(set(reductions)) == 1
    for info in model.feature_info:
        assert isinstance(model.get_submodule(info["module"]), torch.nn.Module)


@pytest.mark.parametrize("name", [n for n in ALL if n not in SMALL])
def test_weights_have_a_source_and_a_licence(name):
    cfg = timm.create_model(name, device="meta").pretrained_cfg
    assert cfg["license"]
    assert cfg["origin_url"].startswith("https://")
    assert cfg["paper_ids"].startswith("arXiv:")


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_features_only(name, size):
    model = build(name)
    features = build(name, features_only=True, out_indices=(0, 2, 3))
    features.model.load_state_dict(model.state_dict(), strict=False)
    x = image(*size)
    maps = features(x)
    strides = [model.feature_info[i]["reduction"] for i in (0, 2, 3)]
    assert features.feature_info.reduction() == strides
    if isinstance(model.stem, PatchStem):
        size = [4 * max(s // 4, 1) for s in size]  # whole patches alone
    for feature, channels, stride in zip(
        maps, features.feature_info.channels(), strides, strict=True
    ):
        expected = (2, channels, *(math.ceil(s / stride) for s in size))
        assert feature.shape == expected
    want = model.forward_intermediates(x, indices=[0, 2, 3], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, want, strict=True))


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_forward_intermediates(name):
    model = build(name)
    x = image(40, 56)
    final, maps = model.forward_intermediates(x, norm=True)
    assert torch.equal(final, model.forward_features(x))
    if model.feature_info[-1]["num_chs"] == model.num_features:  # else more than a norm follows
        tokens = maps[-1].flatten(2).mT
        final = final.reshape(len(x), -1, final.shape[-1])
        assert torch.equal(tokens, final[:, -tokens.shape[1] :])
    maps = model.forward_intermediates(x, intermediates_only=True)
    own = model.forward_intermediates(x, output_fmt=model.output_fmt, intermediates_only=True)
    assert own[1].dim() == len(model.output_fmt)
    assert torch.equal(own[1].flatten(1, -2).mT, maps[1].flatten(2))
    early = model.forward_intermediates(x, indices=[1], stop_early=True, intermediates_only=True)
    assert torch.equal(early[0], maps[1])
    assert len(model.forward_intermediates(x, indices=2, intermediates_only=True)) == 2
    sentence = f"output_fmt is 'NCL', expected 'NCHW' or '{model.output_fmt}'"
    with pytest.raises(ValueError, match=sentence):
        model.forward_intermediates(x, output_fmt="NCL")


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_pruned_stages_are_gone(name):
    model = build(name, out_norms=(0, 3))
    want = model.forward_intermediates(image(64, 64), indices=[1], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([1]) == [1]
    assert len(model.levels) == 2
    assert not model.out_norms
    got = model(image(64, 64)).flatten(1, -2).mT
    assert torch.equal(got[..., -want[0, 0].numel() :], want.flatten(2))


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_classifier_can_be_replaced(name):
    model = build(name)
    x = image(64, 64)
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    model.reset_classifier(0)
    assert model(x).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))
    model.reset_classifier(5, "catavgmax")
    assert model(x).shape == (2, 5)
    assert build(name, num_classes=0)(x).shape == (2, model.num_features)
    assert build(name, num_classes=4, global_pool="max")(x).shape == (2, 4)


@pytest.mark.parametrize("in_chans", [1, 4])
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_in_chans(name, in_chans):
    model = build(name, in_chans=in_chans)
    assert model(image(32, 32, channels=in_chans)).shape == (2, 1000)


@pytest.mark.parametrize("name", SMALL)
def test_trains_with_drop_path_and_checkpointing(name):
    """Every parameter gets a gradient, the same with and without recomputation.

    It is not zero, except where the model says that no output depends on the parameter.
    """
    x = image(48, 48, batch=8)  # no block is left out for all of them
    gradients = []
    for recompute in (False, True):
        model = build(name, drop_path_rate=0.3, num_classes=5).train()
        model.set_grad_checkpointing(recompute)
        torch.manual_seed(1)
        model(x).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert {n for n, g in gradients[0].items() if g.abs().max() == 0} == model.unused_parameters()
    assert all(torch.equal(g, gradients[1][name]) for name, g in gradients[0].items())


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_memory_formats(name):
    model = build(name)
    x = image(40, 24)
    want = model(x)
    strided = image(40, 48)[..., ::2]
    torch.testing.assert_close(model(x.contiguous(memory_format=torch.channels_last)), want)
    assert torch.equal(model(strided), model(strided.contiguous()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_half_precision(name, dtype):
    """A model in half precision is finite and near its float32 self, forward and backward."""
    model = build(name, num_classes=5)
    x = image(64, 64)
    half = build(name, num_classes=5, dtype=dtype)
    y = half(x.to(dtype))
    y.float().sum().backward()
    assert y.dtype == dtype
    assert all(p.grad.isfinite().all() for p in half.parameters())
    noise = 32 * torch.finfo(dtype).eps
    torch.testing.assert_close(y.float(), model(x), rtol=noise, atol=noise)


@pytest.mark.parametrize("name", SMALL)
def test_autocast(name):
    model = build(name, num_classes=5)
    x = image(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(x)
    y.float().sum().backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters()
    )
    torch.testing.assert_close(y.float(), model(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", SMALL)
def test_large_activations_stay_finite_under_autocast(name):
    model = build(name, num_classes=5)
    with torch.autocast("cpu", torch.bfloat16):
        y = model(image(64, 64) * 1e3)
    y.float().mean().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_nan_stays_in_its_image(name):
    model = build(name)
    x = image(64, 64, batch=3)
    clean = model(x)
    x[1, :, 20, 30] = torch.nan
    y = model(x)
    assert y[1].isnan().all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_one_image_equals_its_place_in_a_batch(name):
    """In float64, since some models multiply rounding."""
    model = build(name).double()
    x = image(50, 40, batch=3).double()
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_one_pixel(name):
    y = build(name)(image(1, 1))
    assert y.shape == (2, 1000)
    assert y.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "shape", [(2, 4, 32, 32), (2, 3, 0, 32), (2, 3, 32, 0), (3, 32, 32)], ids=str
)
def test_bad_images_are_named(name, shape):
    sentence = rf"x has shape \({', '.join(map(str, shape))}\), expected \(batch, 3, height, width"
    with pytest.raises(ValueError, match=sentence):
        build(name)(torch.zeros(shape))


@pytest.mark.parametrize("name", SMALL)
def test_images_of_integers_are_named(name):
    sentence = r"x has dtype torch.uint8, expected a floating-point dtype"
    with pytest.raises(ValueError, match=sentence):
        build(name)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


@pytest.mark.parametrize("name", SMALL)
def test_weights_that_were_never_published_cannot_be_had(name):
    with pytest.raises(RuntimeError, match="No pretrained weights exist for"):
        build(name, pretrained=True)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_exports_with_any_batch_height_and_width(name):
    """From where on the smallest map inside is more than one position wide and high.

    In float64, since some models multiply rounding.
    """
    model = build(name).double()
    last = model.feature_info[-1]
    stride = last.get("inner_reduction", last["reduction"])
    least = stride + (4 if isinstance(model.stem, PatchStem) else 1)
    first = image(2 * stride, 3 * stride // 2).double()
    batch = torch.export.Dim("batch", max=64)
    height, width = (torch.export.Dim(d, min=least, max=1024) for d in ("height", "width"))
    program = torch.export.export(
        model, (first,), dynamic_shapes=({0: batch, 2: height, 3: width},)
    ).module()
    for x in (first, image(97, 161, batch=3), image(least, stride + 8, batch=1)):
        x = x.double()
        torch.testing.assert_close(program(x), model(x))


@pytest.mark.parametrize("name", SMALL)
def test_compiles_without_graph_break(name):
    torch.compiler.reset()
    model = build(name, num_classes=5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image(40, 56)), model(image(40, 56)))
    compiled(image(40, 56)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.filterwarnings("ignore")  # deprecated, and shapes become constants
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_jit_traces(name):
    """What counts operations or draws graphs (fvcore, MMEngine, TensorBoard) traces so."""
    model, x = build(name, num_classes=5), image(40, 56)
    traced = torch.jit.trace(model, x, check_trace=False)
    torch.testing.assert_close(traced(x), model(x), rtol=1e-3, atol=1e-4)  # without oneDNN


@pytest.mark.parametrize("routes", ["hilbert", "windowed"])
@pytest.mark.parametrize("name", [n for n in SMALL if n != "test_vssd"])
def test_another_scan_by_one_keyword(name, routes):
    """Every model that scans (VSSD has no order) learns with other routes than its own."""
    torch.manual_seed(0)
    model = timm.create_model(name, routes=routes, num_classes=2).train()
    x, y = image(40, 40, batch=4), torch.tensor([0, 1, 0, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(14):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses

"""What is Mamba-YOLO's own: the detector around its backbone."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from golden import case_names, load_case
from torch import nn

import statescan
from statescan.backbones import MambaYOLOHead, MambaYOLONeck, mamba_yolo_detector
from statescan.scans import S6

CASES = case_names(["mamba_yolo"])
CASE = load_case("mamba_yolo/a")
OFFICIAL = CASE.group("sd.")


def image(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def tiny(**kwargs):
    torch.manual_seed(0)
    return mamba_yolo_detector("test_mamba_yolo", num_classes=5, **kwargs).eval()


def official(case):
    return statescan.from_official(case.family, case.kwargs, case.group("sd.")).eval()


def record(module, maps, name):
    """Keep what a module that works on (B, H, W, C) gives, as (B, C, H, W)."""
    module.register_forward_hook(lambda *call: maps.update({name: call[2].permute(0, 3, 1, 2)}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_pooling_neck_and_predictions(name, dtype):
    """The raw maps and the backbone's are in test_parity.py."""
    case = load_case(name)
    model = official(case).to(dtype)
    got = {}
    *blocks, pooling = model.backbone.stages[3].blocks
    record(blocks[-1], got, "feat.3")
    record(pooling, got, "sppf")
    model.neck.register_forward_hook(
        lambda *call: got.update({f"neck.{i}": m for i, m in enumerate(call[2])})
    )
    got["pred"] = model.predict(case.tensors["x"].to(dtype))
    assert len(got) == 6
    for key, value in got.items():
        want = case.tensors[key]
        error = (value - want).abs().max() / want.abs().max()
        assert error < case.tolerance(key, 1.5e-5), f"{key}: {error:.1e}"


def test_a_box_is_read_from_the_distances_to_its_sides():
    head = MambaYOLOHead((8,), num_classes=2, strides=(16,))
    assert head.bins.tolist() == list(range(16))
    raw = torch.full((1, 4 * 16 + 2, 2, 3), -1e4)
    for side, distance in enumerate((1, 0, 3, 2)):  # left, top, right, bottom
        raw[:, side * 16 + distance] = 0
    raw[:, 64] = 0
    y = head.decode([raw])
    assert y.shape == (1, 6, 6)
    # Row 1, column 2: centre (2.5, 1.5) cells, so 1.5 to 5.5 across and 1.5 to 3.5 down.
    torch.testing.assert_close(y[0, :, 5], torch.tensor([3.5 * 16, 2.5 * 16, 64, 32, 0.5, 0]))
    torch.testing.assert_close(y[0, 0, :3].diff(), torch.tensor([16.0, 16.0]))


def test_a_side_between_two_distances_is_their_mean():
    head = MambaYOLOHead((8,), num_classes=1, strides=(8,), bins=4)
    raw = torch.full((1, 4 * 4 + 1, 1, 1), -1e4)
    raw[:, 1:16:4] = raw[:, 2:16:4] = 0
    torch.testing.assert_close(head.decode([raw])[0, 2:4, 0], torch.tensor([24.0, 24.0]))


@pytest.mark.parametrize("size", [(1, 1), (5, 130), (33, 47), (64, 96)], ids=str)
@torch.no_grad()
def test_an_image_of_any_size_is_padded_with_zeros(size):
    model = tiny()
    x = image(*size)
    raw = model(x)
    H, W = (-(-length // 32) * 32 for length in size)
    for stride, m in zip((8, 16, 32), raw, strict=True):
        assert m.shape == (2, 4 * 16 + 5, H // stride, W // stride)
    padded = F.pad(x, (0, W - size[1], 0, H - size[0]))
    assert torch.equal(model.predict(x), model.predict(padded))
    assert model.predict(x).shape == (2, 4 + 5, H * W // 64 * 21 // 16)


@torch.no_grad()
def test_neck_and_head_take_maps_of_any_size():
    """As a backbone gives them of an image that was not padded."""
    neck, head = MambaYOLONeck((8, 16, 24)).eval(), MambaYOLOHead((8, 16, 24)).eval()
    sizes = ((7, 9), (4, 5), (2, 3))
    maps = [torch.randn(1, dim, *size) for dim, size in zip((8, 16, 24), sizes, strict=True)]
    kept = copy.deepcopy(maps)
    merged = neck(maps)
    assert [m.shape for m in merged] == [m.shape for m in maps]
    assert all(torch.equal(a, b) for a, b in zip(maps, kept, strict=True))
    assert head.decode(head(merged)).shape == (1, 84, 63 + 20 + 6)


def test_parts_are_trained_together():
    """Every parameter but the bins' distances gets a gradient that is not zero."""
    model = tiny(drop_path_rate=0.1).train()
    sum(m.square().mean() for m in model(image(64, 64))).backward()
    still = {n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0}
    assert still == {"head.bins"}


@torch.no_grad()
def test_exports_with_any_batch_height_and_width():
    model = tiny()

    class Predictor(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            raw = self.model(x)
            return *raw, self.model.head.decode(raw)

    batch = torch.export.Dim("batch", max=64)
    height, width = (torch.export.Dim(d, min=33, max=1024) for d in ("height", "width"))
    shapes = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(Predictor(), (image(96, 70),), dynamic_shapes=shapes).module()
    for x in (image(96, 70), image(33, 161, batch=3), image(128, 40, batch=1)):
        for got, want in zip(program(x), (*model(x), model.predict(x)), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_compiles_without_graph_break():
    torch.compiler.reset()
    model = tiny()
    compiled = torch.compile(model.predict, fullgraph=True, backend="aot_eager")
    x = image(64, 40)
    torch.testing.assert_close(compiled(x), model.predict(x), rtol=1e-4, atol=1e-4)
    compiled(x).mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_large_activations_stay_finite_under_autocast():
    """Boxes are read in float32: bfloat16 knows no single pixels beyond 256."""
    model = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        y = model.predict(image(64, 64) * 1e3)
    y.mean().backward()
    assert y.dtype == torch.float32
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_a_detector_in_half_precision_predicts_in_float32():
    model, x = tiny(dtype=torch.bfloat16), image(64, 64)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    y = model.predict(x.bfloat16())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y[:, 4:], tiny().predict(x)[:, 4:], rtol=0.1, atol=0.1)


def test_norms_have_the_authors_epsilons():
    model = mamba_yolo_detector("mamba_yolo_large", device="meta")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 50
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == (1e-5 if ".scans." in name else 1e-6), name


def test_start_as_published():
    model = tiny()
    scans = [m for m in model.modules() if isinstance(m, S6)]
    assert len(scans) == 5 + 4
    assert all(s6.A_log.abs().max() == 0 for s6 in scans)
    steps = torch.cat([s6.dt_proj_bias.flatten() for s6 in scans])
    assert abs(steps.mean()) < 0.1
    assert abs(steps.std() - 1) < 0.1
    for layers in model.head.cls:
        torch.testing.assert_close(layers[-1].bias.sigmoid(), torch.full((5,), 0.01))


@pytest.mark.parametrize("whole", [True, False], ids=["model.", "numbers"])
@torch.no_grad()
def test_backbone_takes_the_detectors_weights(whole):
    """Strictly, but for the neck and the head; as `features_only` too."""
    weights = OFFICIAL if whole else {k.removeprefix("model."): v for k, v in OFFICIAL.items()}
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}
    model = timm.create_model("test_mamba_yolo", num_classes=0, **sizes).eval()
    model.load_state_dict(weights)
    got = model.forward_features(CASE.tensors["x"]).permute(0, 3, 1, 2)
    torch.testing.assert_close(got, CASE.tensors["sppf"], rtol=1e-5, atol=1e-5)
    features = timm.create_model("test_mamba_yolo", features_only=True, **sizes).eval()
    features.load_state_dict(OFFICIAL)
    maps = features(CASE.tensors["x"])
    assert torch.equal(maps[3], got)
    torch.testing.assert_close(maps[0], CASE.tensors["feat.0"], rtol=1e-5, atol=1e-5)


def test_unknown_and_missing_layers_are_named():
    extra = OFFICIAL | {"model.22.weight": torch.ones(1)}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*22\.weight"):
        statescan.from_official("mamba_yolo", CASE.kwargs, extra)
    for key, name in [
        ("model.21.dfl.conv.weight", r"head\.bins"),
        ("model.14.norm.norm.bias", r"neck\.top_down\.0\.norm1\.bias"),
        ("model.8.cv1.bn.bias", r"backbone\.stages\.3\.blocks\.1\.conv1\.bn\.bias"),
    ]:
        fewer = {k: v for k, v in OFFICIAL.items() if k != key}
        with pytest.raises(RuntimeError, match=rf"Missing key.*{name}"):
            statescan.from_official("mamba_yolo", CASE.kwargs, fewer)


def test_our_own_weights_stay_as_they_are():
    model = tiny()
    again = mamba_yolo_detector("test_mamba_yolo", num_classes=5).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(model.predict(image(32, 32)), again.predict(image(32, 32)))


def test_other_routes_by_one_keyword():
    model = tiny(routes="hilbert")
    scans = [m for m in model.modules() if isinstance(m, S6)]
    assert len({s6.routes for s6 in scans}) == 1
    assert scans[0].routes == statescan.scans.ROUTE_SETS["hilbert"]


def test_the_necks_depth_is_the_first_stages():
    model = mamba_yolo_detector("mamba_yolo_large", device="meta")
    assert [len(block.scans) for block in model.neck.top_down] == [2, 2]
    model = mamba_yolo_detector("mamba_yolo_large", scans=3, device="meta")
    assert [len(block.scans) for block in model.neck.bottom_up] == [3, 3]


def changed(part, layer, value):
    cfg = copy.deepcopy(CASE.kwargs["cfg"])
    cfg[part][layer : layer + 1] = [value] if value else []
    return CASE.kwargs | {"cfg": cfg}


@pytest.mark.parametrize(
    ("part", "layer", "value", "sentence"),
    [
        ("backbone", 1, [-1, 3, "C2f", [128]], r"\[1\] is \[-1, 3, 'C2f', \[128\]\], expected"),
        ("backbone", 7, [-1, 3, "VSSBlock", [768]], r"\[7\] is .*768.*, expected .*1024"),
        ("backbone", 8, None, r"\[8\] is None, expected \[-1, 1, 'SPPF'"),
        ("head", 12, [[14, 17], 1, "Detect", ["nc"]], r"\[12\] is .*, expected \[\[14, 17, 20\]"),
    ],
)
def test_unpublished_official_layers_are_refused(part, layer, value, sentence):
    with pytest.raises(ValueError, match=rf"cfg\['{part}'\]{sentence}"):
        statescan.from_official("mamba_yolo", changed(part, layer, value))


def test_official_classes():
    model = statescan.from_official("mamba_yolo", CASE.kwargs | {"nc": None}, device="meta")
    assert model.head.num_classes == 3
    model = statescan.from_official("mamba_yolo", CASE.kwargs | {"nc": 7}, device="meta")
    assert model.head.num_classes == 7


def test_strides_must_fit_the_maps():
    with pytest.raises(ValueError, match=r"strides is \(8, 16, 32\), expected one for each of 2"):
        MambaYOLOHead((8, 16))


@pytest.mark.parametrize("channels", [(8, 16), (8, 16, 32), (8, 16, 24, 32)], ids=str)
@pytest.mark.parametrize("make", [MambaYOLONeck, MambaYOLOHead])
def test_maps_must_have_the_channels_of_the_module(make, channels):
    maps = [torch.zeros(1, dim, 4, 4) for dim in channels]
    with pytest.raises(ValueError, match=r"maps have \(8, 16.*\) channels, expected \(8, 16, 24\)"):
        make((8, 16, 24))(maps)

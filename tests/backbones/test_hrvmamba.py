"""What is HRVMamba's own."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from golden import load_case, load_variants
from torch import nn

import statescan
from statescan.backbones._hrnet import enlarge
from statescan.backbones.hrvmamba import HRVMambaBlock

CASE = load_case("hrvmamba/b")
BASE = load_variants("hrvmamba")[3]


def segmenter_weights(weights, dims, like):
    """A classifier's weights as the authors' ADE20K backbone holds them."""
    norms = {f"outnorm{i}.{n}": like(d) for i, d in enumerate(dims) for n in ("weight", "bias")}
    return {k: v for k, v in weights.items() if not k.startswith("head.")} | norms


def test_the_published_segmenters_backbone_fits_key_for_key():
    shapes = {k: torch.empty(s, device="meta") for k, s in BASE["state_dict"].items()}
    dims = (128, 256, 512, 2048)
    weights = segmenter_weights(shapes, dims, lambda d: torch.empty(d, device="meta"))
    model = statescan.from_official("hrvmamba", BASE["kwargs"], weights, device="meta")
    assert sum(p.numel() for p in model.parameters()) == 58_505_408
    assert [info["num_chs"] for info in model.feature_info] == [*dims]


@torch.no_grad()
def test_segmenters_maps_are_the_normalised_sums_of_the_neck():
    dims = (*CASE.kwargs["neck_out_channels"][:3], CASE.kwargs["neck_final"])
    torch.manual_seed(0)
    weights = segmenter_weights(CASE.group("sd."), dims, torch.randn)
    model = statescan.from_official("hrvmamba", CASE.kwargs, weights).eval()
    maps = model.forward_intermediates(CASE.tensors["x"], intermediates_only=True)
    plain = statescan.from_official("hrvmamba", CASE.kwargs, CASE.group("sd.")).eval()
    sums = plain.neck([CASE.tensors[f"feat.{i}"].permute(0, 2, 3, 1) for i in range(4)])
    for i, (got, y) in enumerate(zip(maps, sums, strict=True)):
        w, b = weights[f"outnorm{i}.weight"], weights[f"outnorm{i}.bias"]
        want = F.layer_norm(y, (dims[i],), w, b).permute(0, 3, 1, 2)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)
    logits = plain.forward_head(sums[-1])
    torch.testing.assert_close(logits, CASE.tensors["logits"], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_neck_features_can_be_pruned():
    model = timm.create_model("test_hrvmamba", neck_features=True).eval()
    x = torch.randn(1, 3, 64, 64)
    want = model.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
    early = model.forward_intermediates(x, [1], stop_early=True, intermediates_only=True)[0]
    assert torch.equal(early, want)
    pruned = copy.deepcopy(model)
    pruned.prune_intermediate_layers([1])
    assert torch.equal(pruned(x).permute(0, 3, 1, 2), want)
    assert len(pruned.neck.widen) == 2


def test_pose_backbones_have_no_neck():
    weights = {k: v for k, v in CASE.group("sd.").items() if not k.startswith(("neck.", "head."))}
    model = statescan.from_official("hrvmamba", CASE.kwargs, weights).eval()
    assert model.neck is None
    maps = model.forward_intermediates(CASE.tensors["x"], intermediates_only=True)
    torch.testing.assert_close(maps[0], CASE.tensors["feat.0"], rtol=1e-4, atol=1e-4)
    assert model.num_features == maps[-1].shape[1]


def test_backbones_without_neck_have_the_published_size():
    for variant in load_variants("hrvmamba"):
        model = timm.create_model(variant["name"], features_only=True, device="meta")
        count = sum(p.numel() for p in model.parameters())
        assert count == variant["params_backbone_only"]


def test_the_first_position_encoding_is_not_in_the_residual():
    block = HRVMambaBlock(16, se_lpu=True)
    for p in (*block.local.parameters(), block.scan.out_proj.weight, *block.mlp.fc2.parameters()):
        nn.init.zeros_(p)
    for p in block.cpe2.parameters():
        nn.init.zeros_(p)
    x = torch.randn(1, 4, 4, 16)
    assert torch.equal(block(x), x)


def test_odd_maps_are_enlarged_in_two_steps():
    """By a whole factor, then to the size, as the authors do."""
    x = torch.randn(1, 2, 3, 4)
    doubled = F.interpolate(x, scale_factor=2, mode="bilinear")
    assert torch.equal(enlarge(x, 2, torch.Size((6, 8))), doubled)
    want = F.interpolate(doubled, (5, 7), mode="bilinear")
    assert torch.equal(enlarge(x, 2, torch.Size((5, 7))), want)


def test_drop_path_rises_to_its_rate_over_all_modules():
    model = timm.create_model("hrvmamba_small", drop_path_rate=0.26, device="meta")
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0)
        for stage in model.stages
        for layer in stage.layers
        for block in layer.branches[0].blocks
    ]
    torch.testing.assert_close(rates, torch.linspace(0, 0.26, 14).tolist())


def test_norms_have_the_authors_epsilon():
    model = timm.create_model("hrvmamba_nano", device="meta")
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert len(norms) > 100
    assert {m.eps for m in norms} == {1e-5}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_class": "HRVmamba_lpu"}, "model_class is 'HRVmamba_lpu', expected one of 'HRV"),
        ({"norm_cfg": {"type": "SyncBN"}}, "norm_cfg is 'SyncBN', expected one of 'BN'"),
        ({"stage3": {"forward_type": "v2"}}, "stage3.forward_type is 'v2', expected 'v05_noz'"),
        ({"stage4": {"num_blocks": [1, 1, 1, 2]}}, r"stage4.num_blocks is \[1, 1, 1, 2\]"),
        ({"stage2": {"num_channels": [8, 9]}}, r"stage2.num_channels is \[8, 9\], expected \[8, 8"),
        ({"stage2": {"layers": 3}}, "stage2.layers is 3, expected 'no such argument'"),
    ],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    kwargs = copy.deepcopy(CASE.kwargs)
    for key, value in change.items():
        if key.startswith("stage"):
            kwargs["extra"][key].update(value)
        else:
            kwargs[key] = value
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("hrvmamba", kwargs)


def test_channels_must_be_quarters():
    with pytest.raises(ValueError, match="dim is 6, expected a multiple of 4"):
        HRVMambaBlock(6)

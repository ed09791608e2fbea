"""What is MSVMamba's own."""

import pytest
import timm
import torch
from golden import load_case
from torch import nn

import statescan
from statescan.scans.routes import ROUTE_SETS, Joined, Reverse, column, raster

TINY = ["test_msvmamba", "test_msvmamba_v3"]


@pytest.mark.parametrize("name", TINY)
def test_one_route_at_full_resolution_and_the_others_joined_at_half(name):
    scan = timm.create_model(name).stages[0].blocks[0].scan
    others = (Reverse(raster), column, Reverse(column))
    assert scan.full_s6.routes == (raster,)
    assert scan.half_s6.routes == (Joined(others, stacked=name == "test_msvmamba"),)
    sizes = []
    scan.full_s6.register_forward_hook(lambda _, x, y: sizes.append(y.shape[1:3]))
    scan.half_s6.register_forward_hook(lambda _, x, y: sizes.append(y.shape[1:3]))
    scan(torch.randn(1, 5, 8, scan.in_proj.in_features))
    assert sizes == [(5, 8), (9 if name == "test_msvmamba" else 3, 4)]


@pytest.mark.parametrize("routes", ["hilbert", ("raster", column)], ids=["hilbert", "two"])
@pytest.mark.parametrize("name", TINY)
def test_other_routes_by_one_keyword(name, routes):
    model = timm.create_model(name, routes=routes)
    model(torch.randn(1, 3, 40, 56)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    joined = model.stages[0].blocks[0].scan.half_s6.routes[0]
    assert joined.routes == (ROUTE_SETS["hilbert"][1:] if routes == "hilbert" else (column,))


def test_one_route_is_not_enough():
    sentence = "routes holds 1 route, expected one at full and at least one at half resolution"
    with pytest.raises(ValueError, match=sentence):
        timm.create_model("test_msvmamba", routes="raster")


@torch.no_grad()
def test_first_release_names():
    """The names that the authors' own loader maps, as VMamba's."""
    case = load_case("msvmamba/a")
    old = {k.replace(".op.", ".self_attention."): v for k, v in case.group("sd.").items()}
    model = statescan.from_official("msvmamba", case.kwargs, old).eval()
    want = case.tensors["logits"]
    torch.testing.assert_close(model(case.tensors["x"]), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["msvmamba_nano", "msvmamba_v3_base"])
def test_norms_have_the_authors_epsilon(name):
    model = timm.create_model(name, device="meta")
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) > 30
    assert {m.eps for m in norms} == {1e-5}


@pytest.mark.parametrize(
    ("case", "change", "sentence"),
    [
        ("msvmamba/a", {"sscore_type": "None"}, "sscore_type is 'None', expected one of 'multi"),
        ("msvmamba/a", {"sep_norm": True}, "sep_norm is True, expected one of False"),
        ("msvmamba/a", {"ms_split": [2, 2]}, r"ms_split is \(2, 2\), expected one of \(1, 3\)"),
        ("msvmamba/a", {"ssm_conv_bias": False}, "ssm_conv_bias is False, expected one of True"),
        ("msvmamba/a", {"forward_type": "v0"}, "forward_type is 'v0', expected one of 'v2', 'vms'"),
        ("msvmamba/a", {"patch_size": 2}, "patch_size is 2, expected one of 4"),
        ("msvmamba_v3/b", {"norm_layer": "LN"}, "norm_layer is 'ln', expected one of 'ln2d'"),
        ("msvmamba_v3/b", {"full_res_index": 3}, "full_res_index is 3, expected one of 1"),
        ("msvmamba_v3/b", {"axis_stage": [3]}, r"axis_stage is \(3,\), expected one of \(\)"),
    ],
)
def test_unpublished_official_arguments_are_refused(case, change, sentence):
    kwargs = load_case(case).kwargs | change
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("msvmamba", kwargs)


def test_unknown_official_arguments_are_refused():
    kwargs = load_case("msvmamba_v3/b").kwargs | {"ssm_states": 1}
    with pytest.raises(TypeError, match="unexpected keyword argument 'ssm_states'"):
        statescan.from_official("msvmamba_v3", kwargs)

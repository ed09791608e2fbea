"""What is Spatial-Mamba's own."""

import pytest
import timm
import torch
from golden import load_case
from torch import nn

import statescan
from statescan.scans.routes import column


@pytest.mark.parametrize("routes", ["hilbert", ("raster", column)], ids=["hilbert", "two"])
def test_other_routes_by_one_keyword(routes):
    model = timm.create_model("test_spatial_mamba", routes=routes)
    model(torch.randn(1, 3, 40, 56)).sum().backward()
    s6 = model.stages[0].blocks[0].mixer.s6
    assert len(s6.routes) == (2 if len(routes) == 2 else 4)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_without_fusion_it_is_a_plain_scan():
    model = timm.create_model("test_spatial_mamba", state_fusion=())
    assert not [name for name, _ in model.named_parameters() if "fusion" in name]
    assert model(torch.randn(1, 3, 40, 56)).isfinite().all()


@torch.no_grad()
def test_weights_loaded_after_a_first_forward_count():
    """The authors' code keeps its merged kernel, see the fixture's notes."""
    case = load_case("spatial_mamba/b")
    model = statescan.from_official(case.family, case.kwargs).eval()
    model(case.tensors["x"])
    model.load_state_dict(case.group("sd."))
    torch.testing.assert_close(
        model(case.tensors["x"]), case.tensors["logits"], rtol=1e-4, atol=1e-4
    )


def test_norms_have_the_authors_epsilon():
    model = timm.create_model("spatial_mamba_tiny", device="meta")
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert len(norms) > 60
    assert {m.eps for m in norms} == {1e-5}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"d_state": 4}, "d_state is 4, expected one of 1"),
        ({"patch_size": 2}, "patch_size is 2, expected one of 4"),
        ({"drop_rate": 0.1}, r"drop_rate is 0.1, expected one of 0.0"),
    ],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("spatial_mamba", change)

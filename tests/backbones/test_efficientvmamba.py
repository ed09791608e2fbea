"""What is EfficientVMamba's own."""

import pytest
import timm
import torch
from golden import load_case
from torch import nn

import statescan
from statescan.scans.routes import column

KWARGS = load_case("efficientvmamba/b").kwargs


@pytest.mark.parametrize("routes", ["hilbert", ("raster", column)], ids=["hilbert", "two"])
def test_other_routes_by_one_keyword(routes):
    model = timm.create_model("test_efficientvmamba", routes=routes)
    model(torch.randn(1, 3, 40, 56)).sum().backward()
    assert len(model.stages[1].blocks[0].scan.s6.routes) == (2 if len(routes) == 2 else 4)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_blank_positions_count():
    """On odd maps the published scan passes through padding, on even ones there is none."""
    torch.manual_seed(0)
    padded = timm.create_model("test_efficientvmamba").eval()
    plain = timm.create_model("test_efficientvmamba", routes="atrous").eval()
    plain.load_state_dict(padded.state_dict())
    for size, same in [(64, True), (36, False)]:
        x = torch.randn(1, 3, size, size)
        assert torch.equal(plain(x), padded(x)) == same


def test_only_two_stages_scan():
    model = timm.create_model("efficientvmamba_tiny", device="meta")
    scans = {name.split(".")[1] for name, _ in model.named_parameters() if name.endswith("A_log")}
    assert scans == {"0", "1"}


def test_norms_have_the_authors_epsilon():
    model = timm.create_model("efficientvmamba_tiny", device="meta")
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert len(norms) > 30
    assert {m.eps for m in norms} == {1e-5}


def test_official_arguments_without_effect():
    kwargs = KWARGS | {"d_state": 1, "dt_rank": 2, "window_size": 7}
    s6 = statescan.from_official("efficientvmamba", kwargs).stages[1].blocks[0].scan.s6
    assert (s6.d_state, s6.dt_rank) == (16, 1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"step_size": 3}, "step_size is 3, expected one of 2"),
        ({"mlp_ratio": 4.0}, "mlp_ratio is 4.0, expected one of 0.0"),
        ({"downsample_version": "v3"}, "downsample_version is 'v3', expected one of 'v1'"),
    ],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("efficientvmamba", KWARGS | change)

"""What is LocalVMamba's own."""

import pytest
import timm
import torch
from golden import load_case

import statescan
from statescan.scans.routes import Reverse, Windowed, column, raster

CASE = load_case("localvmamba/a")


def routes_of(model):
    return [block.scan.s6.routes for stage in model.stages for block in stage.blocks]


def test_every_block_has_the_routes_that_were_found_for_it():
    routes = routes_of(timm.create_model("localvmamba_tiny", device="meta"))
    assert len(routes) == 15
    w7 = Windowed(7, pad=True)
    assert routes[0] == (raster, Reverse(raster), w7, Reverse(w7))
    assert routes[-1] == (Reverse(raster), column, w7, Reverse(w7))
    assert len(set(routes)) == 13


@pytest.mark.parametrize("routes", ["hilbert", (raster, column)], ids=["name", "two"])
def test_other_routes_by_one_keyword(routes):
    model = timm.create_model("test_localvmamba", routes=routes)
    model(torch.randn(1, 3, 40, 56)).sum().backward()
    assert {len(r) for r in routes_of(model)} == {4 if routes == "hilbert" else 2}


def test_as_many_sets_of_routes_as_blocks():
    with pytest.raises(ValueError, match="routes has 2 parts, expected one for each of 4 blocks"):
        timm.create_model("test_localvmamba", routes=((raster,), (column,)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"directions": [["w3"]] * 4}, "directions is 'w3', expected one of 'h', 'v', 'w2', 'w7'"),
        ({"d_state": 8}, "d_state is 8, expected one of 16"),
        ({"ssm_conv": 5}, "ssm_conv is 5, expected one of 3"),
    ],
    ids=["directions", "d_state", "ssm_conv"],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("localvmamba", CASE.kwargs | change)


def test_weights_lie_in_the_release():
    url = timm.create_model("localvmamba_small", device="meta").pretrained_cfg["url"]
    assert url.endswith("LocalMamba/releases/download/v1.0.0/local_vssm_small.ckpt")
    with pytest.raises(RuntimeError, match="No pretrained weights exist for localvmamba_tiny"):
        timm.create_model("localvmamba_tiny", pretrained=True)

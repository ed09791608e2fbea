"""What is LocalVim's own."""

import pytest
import timm
import torch
from golden import load_case
from torch import nn

import statescan
from statescan.backbones._local import local_routes
from statescan.scans.routes import ClassToken, Reverse, Windowed, column, raster

CASE = load_case("localvim/b")


def test_directions_of_blocks():
    blocks = timm.create_model("localvim_tiny", device="meta").blocks
    assert blocks[0].mixer.s6.routes == (
        *(raster, Reverse(column)),
        *(Windowed(7, pad=True), Reverse(Windowed(7, pad=True))),
    )
    assert blocks[19].mixer.s6.routes[2:] == (
        Windowed(2, pad=True),
        Reverse(Windowed(2, pad=True)),
    )
    small = timm.create_model("localvim_small", device="meta").blocks
    assert {block.mixer.s6.routes[0] for block in small} == {raster}
    with_token = timm.create_model("localvim_tiny_class_token", device="meta").blocks
    assert with_token[0].mixer.s6.routes[1] == ClassToken(Reverse(column))


@torch.no_grad()
def test_layer_norms_of_the_authors_detectors():
    """An RMSNorm's weight in a LayerNorm, as they load it."""
    model = statescan.from_official("localvim", CASE.kwargs, CASE.group("sd.")).eval()
    plain = statescan.from_official("localvim", CASE.kwargs | {"rms_norm": False}).eval()
    weights = model.state_dict()
    biases = {k: torch.zeros(v.shape) for k, v in plain.state_dict().items() if k not in weights}
    assert set(biases) == {"norm.bias", *(f"blocks.{i}.norm.bias" for i in range(3))}
    plain.load_state_dict(weights | biases)
    x = torch.randn(2, 50, 18)
    torch.testing.assert_close(
        plain.blocks[1].norm(x), model.blocks[1].norm(x - x.mean(-1, keepdim=True))
    )


@pytest.mark.parametrize("flip", ["", "_flip"], ids=["forth", "back"])
@torch.no_grad()
def test_columns_are_the_rows_of_the_transposed_image(flip):
    """On maps that are not square too, where the authors' code puts outputs in wrong places."""
    sizes = {"depth": 1, "rope": 0}
    columns = timm.create_model(
        "test_localvim", routes=local_routes([["v" + flip]]), **sizes
    ).eval()
    rows = timm.create_model("test_localvim", routes=local_routes([["h" + flip]]), **sizes).eval()
    nn.init.zeros_(columns.pos_embed)
    rows.load_state_dict(columns.state_dict())
    rows.stem.proj.weight.copy_(columns.stem.proj.weight.mT)
    x = torch.randn(2, 3, 40, 64)
    got = columns.forward_intermediates(x, intermediates_only=True)[0]
    want = rows.forward_intermediates(x.mT, intermediates_only=True)[0]
    torch.testing.assert_close(got, want.mT)


@pytest.mark.parametrize("class_token", [True, False], ids=["class-token", "plain"])
def test_other_routes_by_one_keyword(class_token):
    model = timm.create_model(
        "test_localvim", routes="hilbert", class_token=class_token, rope=0 if class_token else 14
    )
    model(torch.randn(2, 3, 40, 56)).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in model.parameters())


@torch.no_grad()
def test_rotary_table_is_resampled_for_another_image_size():
    """From the authors' 6x6 grid by half, not computed anew."""
    model = timm.create_model("test_localvim", img_size=48).eval()
    rope = model.block_arguments(3, 3)[2].view(3, 3, 32)
    table = model.rope.view(6, 6, 32)
    want = torch.nn.functional.interpolate(table.permute(2, 0, 1)[None], (3, 3), mode="bicubic")
    torch.testing.assert_close(rope, want[0].permute(1, 2, 0))
    assert model.block_arguments(6, 6)[2] is model.rope


def test_norms_have_the_authors_epsilon():
    model = timm.create_model("localvim_tiny", out_norms=True, device="meta")
    norms = [m for m in model.modules() if isinstance(m, nn.RMSNorm | nn.LayerNorm)]
    assert len(norms) == 21 + 20 + 20
    assert {m.eps for m in norms} == {1e-5}


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="routes has 20 parts, expected one for each of 4 blocks"):
        timm.create_model("localvim_tiny", depth=4)
    with pytest.raises(
        ValueError, match="directions is 'w3', expected one of 'h', 'v', 'w2', 'w7'"
    ):
        statescan.from_official("localvim", {"depth": 1, "directions": [["w3"]]})
    with pytest.raises(ValueError, match="norm is 'batch', expected one of 'rms', 'layer'"):
        timm.create_model("test_localvim", norm="batch")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"final_pool_type": "max"}, "final_pool_type is 'max', expected one of 'mean'"),
        ({"if_rope": True}, "if_rope_residual is False, expected one of True"),
        ({"use_middle_cls_token": False}, "use_middle_cls_token is False, expected one of True"),
        ({"bimamba_type": "v1"}, "bimamba_type is 'v1', expected one of 'v2'"),
    ],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("localvim", CASE.kwargs | change)

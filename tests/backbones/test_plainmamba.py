"""What is PlainMamba's own."""

import pytest
import timm
import torch
import torch.nn.functional as F
from golden import load_case
from torch import nn

import statescan
from statescan.backbones.plainmamba import DirectionAwareS6, moves
from statescan.scans.routes import Windowed, column, diagonal, raster

CASE = load_case("plainmamba/a")


def written_out(s6, x):
    """The published scan on (B, H, W, C), one route and one step after the other."""
    H, W = x.shape[1:3]
    tokens = x.flatten(1, 2)
    visited = F.pad(tokens, (0, 0, 0, 1))
    out = torch.zeros_like(visited)
    for route in s6.routes:
        h, before = 0, None
        for t, p in enumerate(route(H, W).tolist()):
            u = visited[:, p]
            projected = tokens[:, t] @ s6.x_proj_weight[0].T if t < H * W else x.new_zeros(())
            projected = projected.expand(len(x), s6.x_proj_weight.shape[1])
            dt, B, C = projected.split([s6.dt_rank, s6.d_state, s6.d_state], -1)
            delta = F.softplus(dt @ s6.dt_proj_weight[0].T + 2 * s6.dt_proj_bias[0])
            decay = torch.exp(delta[..., None] * -s6.A_log[0].exp())
            B = B + s6.direction_B[direction(before, p, W)]
            h = decay * h + (delta * u)[..., None] * B[:, None]
            out[:, p] += (h * C[:, None]).sum(-1) + s6.D[0] * u
            before = p
    return out[:, : H * W].view_as(x)


def direction(before, p, W):
    if before is None:
        return 0
    down, right = p // W - before // W, p % W - before % W
    if abs(right) >= abs(down):
        return 1 if right > 0 else 2
    return 3 if down < 0 else 4


@pytest.mark.parametrize("size", [(4, 5), (3, 1), (1, 1)], ids=str)
@pytest.mark.parametrize(
    "routes",
    ["serpentine", "atrous", (diagonal, raster, column), (Windowed(2, pad=True),)],
    ids=["serpentine", "some-positions", "jumps", "padded-windows"],
)
def test_scan_equals_its_equations(routes, size):
    torch.manual_seed(0)
    s6 = DirectionAwareS6(6, routes=routes, d_state=3, dt_rank=2).double()
    x = torch.randn(2, *size, 6, dtype=torch.float64)
    torch.testing.assert_close(s6(x), written_out(s6, x), rtol=1e-10, atol=1e-10)


def test_moves():
    table = torch.tensor([[0, 1, 4, 3], [4, 1, 0, 3]])
    assert moves(table, 3).tolist() == [[0, 1, 4, 2], [0, 3, 2, 4]]


def test_initial_step_sizes_are_mambas():
    dt = F.softplus(2 * DirectionAwareS6(256).dt_proj_bias)
    assert 1e-3 <= dt.min() < 2e-3
    assert 0.08 < dt.max() <= 0.1


@pytest.mark.parametrize("routes", ["hilbert", "windowed", ("raster", column)], ids=str)
def test_other_routes_by_one_keyword(routes):
    model = timm.create_model("test_plainmamba", routes=routes)
    model(torch.randn(2, 3, 40, 56)).sum().backward()
    assert len(model.blocks[0].mixer.s6.routes) == (2 if len(routes) == 2 else 4)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_segmentation_weights_load_without_prefix_and_classifier():
    weights = {k.removeprefix("backbone."): v for k, v in CASE.backbone_weights().items()}
    weights = {k: v for k, v in weights.items() if not k.startswith("head.")}
    model = statescan.from_official("plainmamba", CASE.kwargs, weights).eval()
    maps = model.forward_intermediates(CASE.tensors["x"], intermediates_only=True)
    torch.testing.assert_close(maps[2], CASE.tensors["feat.2"], rtol=1e-4, atol=1e-4)
    assert not [n for n, _ in model.named_parameters() if n.startswith("head")]


def test_norms_have_the_authors_epsilons():
    model = timm.create_model("plainmamba_l1", out_norms=(5, 11), device="meta")
    assert {block.norm.eps for block in model.blocks} == {1e-5}
    assert {norm.eps for norm in (model.norm, *model.out_norms.values())} == {1e-6}
    assert set(model.out_norms) == {"5", "11", "23"}
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-5}


def test_parameters_that_do_not_decay():
    names = timm.create_model("plainmamba_l1", device="meta").no_weight_decay()
    assert {"pos_embed", "blocks.3.mixer.s6.direction_B", "blocks.0.mixer.s6.D"} < names


def test_odd_patches_are_refused():
    with pytest.raises(ValueError, match="patch_size is 7, expected an even number"):
        timm.create_model("test_plainmamba", patch_size=7)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"arch": "L4"}, "arch is 'L4', expected one of 'L1', 'L2', 'L3'"),
        ({"final_norm": False}, "final_norm is False, expected one of True"),
        ({"norm_cfg": {"type": "BN"}}, "norm_cfg is .*'BN'"),
        ({"layer_cfgs": {"use_rms_norm": True}}, "use_rms_norm is True, expected one of False"),
        ({"layer_cfgs": {"mamba_cfg": {"conv_size": 3}}}, "conv_size is 3, expected one of 7"),
    ],
)
def test_unpublished_official_arguments_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        statescan.from_official("plainmamba", CASE.kwargs | change)

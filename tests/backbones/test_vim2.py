"""ViM2 has no official code: its equations, its symmetries and what was chosen for it."""

import copy
from itertools import pairwise

import pytest
import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from statescan.backbones.vim2 import ChannelMixer, WeightedSum, resampling
from statescan.scans import CausalS6, Scan2d

SIZES = [(7, 7), (1, 1), (3, 20), (14, 9)]


def build(**kwargs):
    torch.manual_seed(0)
    return timm.create_model("test_vim2", depths=(1, 1, 2, 1), **kwargs).eval()


def make(module, *args, **kwargs):
    torch.manual_seed(0)
    return module(*args, **kwargs).double()


def image(*size):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


def maps(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).double()


def set_parameters(module, changes):
    """A copy of a module whose parameters were changed by functions of their own names."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(changes.get(name, nn.Identity())(p.clone()))
    return module


def kinds(stage):
    """Whether each mixer of a stage mixes channels."""
    return [isinstance(block.mixer, ChannelMixer) for block in stage.blocks[:-1]]


@torch.no_grad()
def test_fresh_network_is_the_plain_residual_stack():
    model, x = build(), image(64, 48)
    got = model.forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
    x = model.stem(x)
    for stage, feature in zip(model.stages, got, strict=True):
        x = stage.downsample(x)
        for block in stage.blocks[:-1]:
            x = x + block.mixer(block.norm(x))
        assert torch.equal(feature, x)


@torch.no_grad()
def test_weighted_averaging_is_the_papers():
    """Token and channel outputs have weights of their own, α and β or θ and γ, in every mixer."""
    stage = build().stages[2].double()
    for block in stage.blocks:
        sums = block if isinstance(block, WeightedSum) else block.average
        nn.init.normal_(sums.weight)
    x = maps(2, 8, 6, 16)
    first = stage.downsample(x)
    tokens, channels = [], []
    for block, mixes_channels in zip(stage.blocks[:-1], kinds(stage), strict=True):
        token_weights, channel_weights = split(block.average.weight, kinds(stage))
        total = block.average.weight[0] * first
        total = total + sum(w * y for w, y in zip(token_weights, tokens, strict=True))
        total = total + sum(w * y for w, y in zip(channel_weights, channels, strict=True))
        (channels if mixes_channels else tokens).append(block.mixer(block.norm(total)))
    token_weights, channel_weights = split(stage.blocks[-1].weight, kinds(stage))
    want = stage.blocks[-1].weight[0] * first
    want = want + sum(w * y for w, y in zip(token_weights, tokens, strict=True))
    want = want + sum(w * y for w, y in zip(channel_weights, channels, strict=True))
    assert (len(tokens), len(channels)) == (4, 2)
    torch.testing.assert_close(stage(x), want)


def split(weight, channel):
    """Weights of earlier token mixers and of earlier channel mixers, without the input's."""
    earlier = list(zip(weight[1:], channel, strict=False))
    return [w for w, c in earlier if not c], [w for w, c in earlier if c]


def test_every_averaging_weight_has_a_gradient_and_no_decay():
    model = build(num_classes=5)
    model(image(64, 64)).square().sum().backward()
    sums = [m for m in model.modules() if isinstance(m, WeightedSum)]
    assert [len(s.weight) for s in sums] == [*range(1, 5)] * 2 + [*range(1, 8)] + [*range(1, 5)]
    for s in sums:
        assert (s.weight.grad != 0).all()
        assert s.weight.dim() == 1  # timm decays no vectors


def test_mixers_come_in_the_tables_order():
    for stage, depth in zip(build().stages, (1, 1, 2, 1), strict=True):
        assert kinds(stage) == [False, False, True] * depth


@torch.no_grad()
def test_channel_mixer_has_no_direction():
    """Flipped channels with the scans' parameters exchanged give the flipped result."""
    mixer, x = make(ChannelMixer, 12), maps(2, 5, 6, 12)

    def flip(p):
        return p.flip(0)

    def flip_and_exchange_gates(p):
        return p.unflatten(0, (12, 3)).flip(0)[:, [0, 2, 1]].flatten(0, 1)

    flipped = {name: flip for name, _ in mixer.named_parameters()}
    flipped |= dict.fromkeys(("in_conv.weight", "in_conv.bias"), flip_and_exchange_gates)
    torch.testing.assert_close(set_parameters(mixer, flipped)(x.flip(-1)), mixer(x).flip(-1))
    assert not torch.allclose(mixer(x.flip(-1)), mixer(x).flip(-1))


@pytest.mark.parametrize(
    ("turn", "routes"),
    [
        (lambda t, i, j: t.transpose(i, j), [1, 0, 3, 2]),
        (lambda t, i, j: t.flip(i, j), [2, 3, 0, 1]),
    ],
    ids=["transposed", "turned"],
)
@torch.no_grad()
def test_token_mixer_has_no_direction(turn, routes):
    """A turned map with the scans' parameters exchanged gives the turned result."""
    mixer, x = make(Scan2d, 6, gate="route", conv_bias=True, expand=2.0), maps(2, 5, 4, 6)
    turned = {f"s6.{name}": lambda p: p[routes] for name, _ in mixer.s6.named_parameters()}
    turned["conv.weight"] = lambda p: turn(p, 2, 3)
    turned["in_proj.weight"] = lambda p: p.unflatten(0, (5, 12))[
        [0, *(1 + k for k in routes)]
    ].flatten(0, 1)
    torch.testing.assert_close(set_parameters(mixer, turned)(turn(x, 1, 2)), turn(mixer(x), 1, 2))
    assert not torch.allclose(mixer(turn(x, 1, 2)), turn(mixer(x), 1, 2))


@torch.no_grad()
def test_on_the_grids_size_the_channel_scan_is_the_transposed_scan():
    mixer, x, gate = make(ChannelMixer, 12), maps(2, 12, 49), maps(2, 12, 2, 49)
    assert isinstance(mixer.s6, CausalS6)
    torch.testing.assert_close(mixer.scan(x, gate, 7, 7), mixer.s6(x, 1, 12, gate))


def test_a_call_leaves_the_parameters_alone():
    """Other threads may be reading them."""
    mixer = ChannelMixer(12)
    own = dict(mixer.named_parameters())

    class Watched(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            assert all(p is own[name] for name, p in mixer.named_parameters())
            return function(*args, **(kwargs or {}))

    with Watched():
        mixer(torch.ones(1, 3, 4, 12))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_channels_tell_each_other_in_both_directions(size):
    mixer = make(ChannelMixer, 12)
    x = maps(1, 12, size[0] * size[1]).requires_grad_()
    y = mixer.scan(x, torch.ones_like(x).unsqueeze(2).expand(-1, -1, 2, -1), *size)
    for source, target in [(0, -1), (-1, 0)]:
        (gradient,) = torch.autograd.grad(y[0, target].sum(), x, retain_graph=True)
        assert (gradient[0, source] != 0).all()


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_resampled_parameters_do_not_grow_with_the_map(size):
    """A map of one value is read as on the grid, and equal parameters stay equal."""
    mixer = make(ChannelMixer, 12)
    got = mixer.parameters_for(*size)
    want = dict(mixer.s6.named_parameters())
    torch.testing.assert_close(got["x_proj_weight"].sum(2), want["x_proj_weight"].sum(2))
    assert got["D"].shape == (2, size[0] * size[1])
    torch.testing.assert_close(got["D"], torch.ones_like(got["D"]))
    low, high = want["dt_proj_bias"].min(), want["dt_proj_bias"].max()
    assert ((got["dt_proj_bias"] >= low) & (got["dt_proj_bias"] <= high)).all()


@torch.no_grad()
def test_autocast_does_not_round_the_parameters():
    mixer = ChannelMixer(12)
    want = mixer.parameters_for(9, 5)
    with torch.autocast("cpu", torch.bfloat16):
        got = mixer.parameters_for(9, 5)
    assert all(torch.equal(p, want[name]) for name, p in got.items())


def test_resampling():
    def resample(new, old):
        return resampling(new, old, torch.device("cpu"))

    assert torch.equal(resample((3, 4), (3, 4)), torch.eye(12))
    ramp = torch.arange(5.0)
    torch.testing.assert_close(
        resample((1, 10), (1, 5)) @ ramp,
        torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25, 3.75, 4]),
    )
    torch.testing.assert_close(
        resample((1, 2), (1, 4)), torch.tensor([[3, 3, 1, 0], [0, 1, 3, 3]]) / 7.0
    )
    both = resample((4, 6), (2, 9))
    rows, columns = resample((4, 1), (2, 1)), resample((1, 6), (1, 9))
    torch.testing.assert_close(both, torch.kron(rows, columns))


@pytest.mark.parametrize(
    ("name", "count"),
    [("vim2_tiny", 19_193_441), ("vim2_small", 42_618_308), ("vim2_base", 75_073_316)],
)
def test_parameters(name, count):
    model = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == count
    widths = [stage.blocks[0].norm.normalized_shape[0] for stage in model.stages]
    assert all(b == 2 * a for a, b in pairwise(widths))


@torch.no_grad()
def test_tiny_at_224_pixels():
    torch.manual_seed(0)
    model = timm.create_model("vim2_tiny", features_only=True).eval()
    for feature, size in zip(model(image(224, 224)[:1]), (56, 28, 14, 7), strict=True):
        assert feature.shape[2:] == (size, size)
        assert feature.isfinite().all()


@pytest.mark.parametrize("routes", ["hilbert", ("raster", "atrous")], ids=["hilbert", "mixed"])
def test_every_route_has_its_gate(routes):
    model = build(routes=routes)
    model(image(40, 56)).sum().backward()
    scan = model.stages[0].blocks[0].mixer
    assert scan.in_proj.out_features == scan.inner * (1 + len(scan.s6.routes))
    assert all(p.grad.isfinite().all() for p in model.parameters())

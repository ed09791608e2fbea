"""What is VMamba's own."""

import pytest
import timm
import torch

import statescan
from statescan.backbones import VMamba
from statescan.scans.routes import hilbert

SIZES = [(224, 224), (97, 161), (512, 768)]


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return timm.create_model("vmamba_tiny_s1l8").eval()


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_tiny_takes_any_size(tiny, size):
    y = tiny(torch.randn(1, 3, *size))
    assert y.shape == (1, 1000)
    assert y.isfinite().all()


def test_tiny_compiles_without_graph_break(tiny):
    torch.compiler.reset()
    compiled = torch.compile(tiny, fullgraph=True, backend="aot_eager")
    x = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(compiled(x), tiny(x))


def test_tiny_exports_with_any_batch_height_and_width(tiny):
    batch = torch.export.Dim("batch", max=64)
    height, width = (torch.export.Dim(d, min=33, max=2048) for d in ("height", "width"))
    dynamic = ({0: batch, 2: height, 3: width},)
    program = torch.export.export(tiny, (torch.randn(2, 3, 64, 96),), dynamic_shapes=dynamic)
    x = torch.randn(3, 3, 100, 70)
    torch.testing.assert_close(program.module()(x), tiny(x))


def test_inference_and_training_compute_the_same(tiny):
    """Without a gradient linear layers take another path."""
    x = torch.randn(2, 3, 64, 64)
    want = tiny(x)
    with torch.inference_mode():
        torch.testing.assert_close(tiny(x), want.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_large_activations_stay_finite_under_autocast(dtype):
    model = timm.create_model("test_vmamba", num_classes=5)
    x = torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", dtype):
        y = model(x * 1e4)
    y.float().mean().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_nano_is_small():
    parameters = timm.create_model("vmamba_nano", device="meta").parameters()
    assert sum(p.numel() for p in parameters) <= 1_500_000


def test_drop_path_rises_to_its_rate_over_all_blocks():
    model = timm.create_model("vmamba_tiny_s1l8", drop_path_rate=0.26, device="meta")
    rates = [getattr(b.drop_path, "drop_prob", 0.0) for stage in model.stages for b in stage.blocks]
    torch.testing.assert_close(rates, torch.linspace(0, 0.26, 14).tolist())


@pytest.mark.parametrize(
    "routes", ["hilbert", "windowed", ("raster", hilbert)], ids=["hilbert", "windowed", "two"]
)
def test_other_routes_by_one_keyword(routes):
    model = timm.create_model("test_vmamba", routes=routes)
    model(torch.randn(1, 3, 40, 56)).sum().backward()
    assert len(model.stages[0].blocks[0].scan.s6.routes) == (2 if len(routes) == 2 else 4)


@pytest.mark.parametrize("recurrence", ["2dmamba", "mamba2d", "v2m"])
def test_other_recurrences_by_one_keyword(recurrence):
    model = timm.create_model("test_vmamba", recurrence=recurrence)
    model(torch.randn(1, 3, 40, 56)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_patch_stem_pads_what_is_smaller_than_a_patch():
    model = VMamba(depths=(1,), dims=(8,), stem="patch").eval()
    x = torch.randn(1, 3, 3, 9)
    assert torch.equal(model(x), model(torch.nn.functional.pad(x, (0, 0, 0, 1))))
    assert torch.equal(model(x), model(x[..., :8]))


def test_layer_norms_have_the_authors_epsilon():
    model = timm.create_model("vmamba_v0_tiny", device="meta")
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) > 30
    assert {m.eps for m in norms} == {1e-5}


def test_list_models():
    assert "vmamba_nano" in statescan.list_models("vmamba_*")
    assert not [name for name in statescan.list_models() if name.startswith("resnet")]


def test_initial_deviation():
    torch.manual_seed(0)
    for name, std in [("vmamba_tiny_s1l8", 0.02), ("vmamba_nano", 192**-0.5)]:
        weight = timm.create_model(name).stages[3].blocks[0].mlp.fc1.weight
        assert abs(weight.std() / std - 1) < 0.05

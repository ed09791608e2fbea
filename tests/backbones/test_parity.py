"""Our models against the authors' code, for every golden fixture at hand."""

import pytest
import timm
import torch
from golden import case_names, load_case, load_variants
from mistakes import MISTAKES

import statescan

# Published variants of each family, in the order of its variants.json.
VARIANTS = {
    "vmamba": [
        *("vmamba_v0_tiny", "vmamba_v0_small", "vmamba_v0_base"),
        *("vmamba_tiny_s2l5", "vmamba_small_s2l15", "vmamba_base_s2l15"),
        *("vmamba_tiny_s1l8", "vmamba_small_s1l20", "vmamba_base_s1l20"),
    ],
    "spatial_mamba": ["spatial_mamba_tiny", "spatial_mamba_small", "spatial_mamba_base"],
    "groupmamba": ["groupmamba_tiny", "groupmamba_small", "groupmamba_base"],
    "msvmamba": ["msvmamba_nano", "msvmamba_micro", "msvmamba_tiny"],
    "msvmamba_v3": ["msvmamba_v3_tiny", "msvmamba_v3_small", "msvmamba_v3_base"],
    "vssd": ["vssd_micro", "vssd_tiny", "vssd_small", "vssd_base"],
}
NAMED_VARIANTS = [
    pytest.param(family, name, variant, id=name)
    for family, names in VARIANTS.items()
    for name, variant in zip(names, load_variants(family), strict=True)
]

# Largest error relative to the largest value, where a fixture's own noise does not allow for more.
# The fixtures are float32: their distance to float64 reaches 7e-6 in values, 1.4e-5 in gradients.
VALUE_TOLERANCE, GRADIENT_TOLERANCE = 1.5e-5, 3e-5


def relative_error(got, want):
    return ((got - want).abs().max() / want.abs().max()).item()


def official_model(case):
    weights = case.group("sd.") | case.group("bb.")
    model = statescan.from_official(case.family, case.kwargs, weights)
    MISTAKES.get(case.family, lambda model: None)(model)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", case_names(VARIANTS))
def test_logits_maps_and_gradients(name, dtype):
    case = load_case(name)
    model = official_model(case).eval().to(dtype)
    x = case.tensors["x"].to(dtype, copy=True).requires_grad_()
    logits = model(x)
    maps = model.forward_intermediates(x, intermediates_only=True)
    (logits * case.tensors["w"]).sum().backward()

    def assert_close(got, name, least=VALUE_TOLERANCE):
        error = relative_error(got, case.tensors[name])
        assert error < case.tolerance(name, least), f"{name}: {error:.1e}"

    assert_close(logits, "logits")
    assert len(maps) == len(case.group("feat."))
    for i, feature in enumerate(maps):
        assert_close(feature, f"feat.{i}")
    assert_close(x.grad, "grad.x", GRADIENT_TOLERANCE)
    parameters = dict(model.named_parameters())
    wanted = model.checkpoint_filter_fn(case.group("grad.p."), model)
    assert wanted
    tolerance = max(
        case.tolerance(name, GRADIENT_TOLERANCE) for name in case.tensors if "grad.p." in name
    )
    for key, gradient in wanted.items():
        error = relative_error(parameters[key].grad, gradient)
        assert error < tolerance, f"{key}: {error:.1e}"


@pytest.mark.parametrize("name", case_names(VARIANTS))
@torch.no_grad()
def test_maps_without_out_norms(name):
    case = load_case(name)
    model = statescan.from_official(case.family, case.kwargs, case.group("sd.")).eval()
    maps = model.forward_intermediates(case.tensors["x"], intermediates_only=True)
    for i, feature in enumerate(maps):
        # Where there are no out-norms, the fixture has the maps only once.
        want = case.tensors.get(f"stage.{i}", case.tensors[f"feat.{i}"])
        assert relative_error(feature, want) < VALUE_TOLERANCE, f"stage {i}"


@pytest.mark.parametrize(("family", "name", "variant"), NAMED_VARIANTS)
def test_published_variant_fits_key_for_key(family, name, variant):
    weights = {k: torch.empty(s, device="meta") for k, s in variant["state_dict"].items()}
    for model in (
        timm.create_model(name, device="meta"),
        statescan.from_official(family, variant["kwargs"], device="meta"),
    ):
        assert sum(p.numel() for p in model.parameters()) == variant["params"]
        model.load_state_dict(weights, assign=True)


@pytest.mark.parametrize(("family", "name", "variant"), NAMED_VARIANTS)
def test_pretrained_points_at_the_published_file(family, name, variant):
    cfg = timm.create_model(name, device="meta").pretrained_cfg
    if variant["checkpoint_url_name"]:
        file = cfg["hf_hub_filename"] if "hf_hub_id" in cfg else cfg["url"].rpartition("/")[2]
        assert file == variant["checkpoint_url_name"]
    else:
        assert cfg.get("description", "").startswith("weights: Google Drive ")
    assert cfg["input_size"][1] == variant["input_size"]

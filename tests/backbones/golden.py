"""The golden fixtures: one case a family here, all of them where they lie beside the checkout."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).parents[1] / "golden"
SHARED = HERE.parents[2] / "shared" / "golden"

# Rounding that a fixture does not record: its distance to the same model in float64. Here four
# nearly equal channels go through an out-norm.
UNRECORDED_NOISE = {"spatial_mamba/b": {"feat.0": 1.5e-5}}
# Fixtures that record an error of the authors' code: column scans are put back in the wrong places
# where a map is not square.
RECORDED_ERRORS = {"localvim/c"}
# Authors with two classes of the same arguments; `from_official` takes the class's name with them.
TWO_CLASSES = {"hrvmamba"}


class Case(NamedTuple):
    family: str
    kwargs: dict
    tensors: dict[str, Tensor]
    noise: dict[str, float]  # the fixture's own float32 rounding, by tensor or kind of tensor
    wrapper_kwargs: dict  # of the authors' backbone for detection or segmentation

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}

    def backbone_weights(self, finished: bool = True) -> dict[str, Tensor]:
        """Weights of the authors' backbone, with or without what finishes its maps."""
        weights, own = self.group("sd."), self.group("bb.")
        if "pos_embed" in own:  # positions of a model without class token
            weights.pop("cls_token", None)
        return weights | {k: v for k, v in own.items() if finished or k in weights}

    def map_names(self) -> list[str]:
        """The maps that the authors' backbone hands to a neck: the last may be pooled first."""
        names = [f"feat.{i}" for i in range(len(self.group("feat.")))]
        return [*names[:-1], "sppf"] if "sppf" in self.tensors else names

    def tolerance(self, name: str, least: float) -> float:
        """Largest error of a tensor relative to its largest value: `least`, or 4 times the noise
        recorded for it or for its kind (grad.p, feat) where that is more."""
        kind = name.rpartition(".")[0] if name.startswith("feat") else name[:6]
        return max(least, 4 * self.noise.get(name, self.noise.get(kind, 0)))


def case_names(families) -> list[str]:
    """`family/case` of every fixture of the given families, but for the `RECORDED_ERRORS`."""
    names = {
        f"{path.parent.name}/{path.stem}"
        for root in (HERE, SHARED)
        for path in root.glob("*/*.safetensors")
    }
    names -= RECORDED_ERRORS
    return sorted(name for name in names if name.split("/")[0] in families)


@cache
def load_case(name: str) -> Case:
    path = next(p for p in (HERE / name, SHARED / name) if p.with_suffix(".json").exists())
    record = json.loads(path.with_suffix(".json").read_text())
    tensors = load_file(path.with_suffix(".safetensors"))
    noise = recorded_noise(record) | UNRECORDED_NOISE.get(name, {})
    wrapper = record.get("wrapper_kwargs") or {}
    family = path.parent.name
    return Case(family, official_kwargs(family, record), tensors, noise, wrapper)


def recorded_noise(record: dict) -> dict[str, float]:
    """The three forms in which fixtures record their rounding, as one."""
    if "float64_difference" in record:
        difference = record["float64_difference"]
        return {"grad.x": difference["grad.x_rel"], "grad.p": difference["grad.p_rel_max"]}
    return record.get("float_noise") or record["fp32_vs_fp64_rel"]


@cache
def load_variants(family: str) -> list[dict]:
    """Every published variant: kwargs, params and the shapes of its state_dict."""
    with gzip.open(HERE / family / "variants.json.gz") as file:
        variants = json.load(file)["variants"]
    return [
        v | {"kwargs": official_kwargs(family, v), "input_size": side(v["input_size"])}
        for v in variants
    ]


def side(input_size: int | list[int]) -> int:
    """An image's height, recorded by itself or within (channels, height, width)."""
    return input_size if isinstance(input_size, int) else input_size[1]


def official_kwargs(family: str, record: dict) -> dict:
    """The arguments of the authors' class, and its name where that says more than they do."""
    own = {"model_class": record["class"].rpartition(":")[2]} if family in TWO_CLASSES else {}
    return record["kwargs"] | own

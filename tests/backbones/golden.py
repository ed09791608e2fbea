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


class Case(NamedTuple):
    family: str
    kwargs: dict
    tensors: dict[str, Tensor]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under a prefix, without it."""
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}


def case_names(families) -> list[str]:
    """`family/case` of every fixture of the given families."""
    names = {
        f"{path.parent.name}/{path.stem}"
        for root in (HERE, SHARED)
        for path in root.glob("*/*.safetensors")
    }
    return sorted(name for name in names if name.split("/")[0] in families)


@cache
def load_case(name: str) -> Case:
    path = next(p for p in (HERE / name, SHARED / name) if p.with_suffix(".json").exists())
    kwargs = json.loads(path.with_suffix(".json").read_text())["kwargs"]
    return Case(path.parent.name, kwargs, load_file(path.with_suffix(".safetensors")))


@cache
def load_variants(family: str) -> list[dict]:
    """Every published variant: kwargs, params and the shapes of its state_dict."""
    with gzip.open(HERE / family / "variants.json.gz") as file:
        return json.load(file)["variants"]

"""What the README says of the models, and its Python, hold."""

import re
from pathlib import Path

import pytest
import timm

import statescan

README = (Path(__file__).parents[1] / "README.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", README, re.MULTILINE)


def test_every_model_has_its_row():
    names = {name for name in statescan.list_models() if not name.startswith("test_")}
    assert {name for name, _ in ROWS} == names


@pytest.mark.parametrize(("name", "parameters"), ROWS)
def test_parameters(name, parameters):
    model = timm.create_model(name, device="meta")
    assert f"{sum(p.numel() for p in model.parameters()):,}" == parameters


def test_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    first, _, scans = (block.replace(", pretrained=True", "") for block in blocks)
    exec(first + scans, {})

"""What the README and the page of models say holds."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import timm

import statescan

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
ROWS = dict(
    re.findall(r"^\| `(\w+)`.*? \| ([\d,]+) \|", (ROOT / "docs/models.md").read_text(), re.M)
)
NAMES = [name for name in statescan.list_models() if not name.startswith("test_")]


def expand(names: str) -> list[str]:
    """`a_{b,c}` → a_b, a_c."""
    match = re.fullmatch(r"(\w*)\{(.+)\}(\w*)", names)
    if not match:
        return [names]
    return [match[1] + middle + match[3] for middle in match[2].split(",")]


def test_readme_names_every_model():
    table = "\n".join(line for line in README.splitlines() if line.startswith("| ["))
    named = {name for names in re.findall(r"`([\w{},]+)`", table) for name in expand(names)}
    assert named == set(NAMES)


def test_every_model_has_its_row():
    assert set(ROWS) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name):
    model = timm.create_model(name, device="meta")
    assert f"{sum(p.numel() for p in model.parameters()):,}" == ROWS[name]


def test_a_row_is_what_the_tool_writes(monkeypatch):
    spec = importlib.util.spec_from_file_location("model_table", ROOT / "tools/model_table.py")
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "model_table", tool)
    spec.loader.exec_module(tool)
    speeds = tool.json.loads(tool.SPEEDS.read_text())
    for name in ("vmamba_tiny_s1l8", "spatial_mamba_tiny"):
        assert f"| {' | '.join(tool.row(name, speeds))} |" in tool.PAGE.read_text().splitlines()


def test_python_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 3
    first, _, scans = (block.replace(", pretrained=True", "") for block in blocks)
    exec(first + scans, {})

"""Which models the guide names."""

import importlib.util
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def choosing(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    spec = importlib.util.spec_from_file_location("choosing", TOOLS / "choosing.py")
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "choosing", tool)
    spec.loader.exec_module(tool)
    return tool


def test_front_is_what_nothing_beats(choosing):
    rows = {"slow": (80, 1), "beaten": (79, 2), "fast": (75, 3), "same": (75, 3), "worst": (60, 3)}
    models = [choosing.Model(n, t, 0, 0.0, s, 0.0, 0.0) for n, (t, s) in rows.items()]
    names = [m.name for m in choosing.front(models, lambda m: -m.speed)]
    assert names == ["fast", "beaten", "slow"]


def test_page_is_what_the_tool_writes(choosing):
    assert choosing.PAGE.read_text() == choosing.page()

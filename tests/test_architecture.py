"""Who may import whom: kernels <- scans <- layers <- backbones, tracking <- mm <- tools; within mm
ops <- checkpoints <- models <- data <- scenes <- training <- inference <- reports.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "statescan"
# A room may import itself and the rooms before it; errors.py and files.py are open to all.
ORDER = ["kernels", "scans", "layers", "backbones", "tracking", "mm"]
# So may a folder of mm, besides mm/errors.py; mm/__init__.py imports what it registers.
MM_ORDER = ["ops", "checkpoints", "models", "data", "scenes", "training", "inference", "reports"]
OPENMMLAB = {"mmengine", "mmcv", "mmdet", "mmseg"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported_modules(path):
    """Every module a file imports, absolute names, wherever in the file it does so."""
    package = ("statescan", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arrows(path):
    room = path.relative_to(PACKAGE).parts[0]
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] in OPENMMLAB:
            assert room == "mm", f"{module} belongs in statescan/mm"
        if parts[0] == "statescan" and len(parts) > 1 and parts[1] in ORDER and room in ORDER:
            assert ORDER.index(parts[1]) <= ORDER.index(room), f"{room} imports {module}"
        assert parts[0] not in {"tools", "tests", "configs", "benchmarks"}


MM_FILES = sorted((PACKAGE / "mm").glob("*/*.py"))


@pytest.mark.parametrize("path", MM_FILES, ids=lambda p: str(p.relative_to(PACKAGE / "mm")))
def test_arrows_within_mm(path):
    folder = path.parent.name
    allowed = {"errors", *MM_ORDER[: MM_ORDER.index(folder) + 1]}
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[:2] == ["statescan", "mm"] and len(parts) > 2:
            assert parts[2] in allowed, f"{folder} imports {module}"


@pytest.mark.parametrize(
    ("test", "room", "line", "told"),
    [
        (
            test_arrows,
            "kernels",
            "from ..backbones import vmamba",
            "kernels imports statescan.back",
        ),
        (
            test_arrows_within_mm,
            "mm/data",
            "from ..reports import runs",
            "data imports statescan.mm",
        ),
        (
            test_arrows_within_mm,
            "mm/data",
            "from .. import train",
            "data imports statescan.mm.train",
        ),
    ],
    ids=["rooms", "mm", "all-of-mm"],
)
def test_a_wrong_arrow_would_be_seen(monkeypatch, test, room, line, told):
    monkeypatch.setattr(Path, "read_text", lambda self: line)
    with pytest.raises(AssertionError, match=told):
        test(PACKAGE / room / "wrong.py")


def test_import_needs_torch_and_timm_alone():
    blocked = [*OPENMMLAB, "triton", "numba", "cv2", "sklearn", "matplotlib", "torchmetrics"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "import statescan; assert statescan.list_models()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)

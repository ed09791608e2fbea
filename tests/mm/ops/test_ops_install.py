"""Which mmcv._ext gets loaded, in processes of their own, and what it says of missing operators."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import mmcv
import mmcv._ext
import pytest
from mmcv.utils import collect_env

ROOT = Path(__file__).parents[3]
STAND_IN = ROOT / "statescan/mm/ops/extension.py"


def run(code: str, folder: Path = ROOT) -> str:
    """What `code` prints in a fresh interpreter that looks into `folder` first."""
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n{code}"
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True).stdout


def test_the_stand_in_is_loaded_where_no_extension_is():
    assert Path(mmcv._ext.__file__) == STAND_IN


@pytest.mark.parametrize("first", ["mmcv", "statescan.mm"])
def test_a_real_extension_stays(tmp_path, first):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv/__init__.py").touch()
    (tmp_path / "mmcv/_ext.py").touch()
    code = f"import {first}, statescan.mm, mmcv._ext; print(mmcv._ext.__file__)"
    assert run(code, tmp_path).split() == [str(tmp_path / "mmcv/_ext.py")]


def test_without_mmcv_there_is_nothing_to_do():
    code = """
sys.modules["mmcv"] = None
import importlib.util, statescan.mm
try:
    importlib.util.find_spec("mmcv._ext")
except ModuleNotFoundError as error:
    print(error)
"""
    assert "mmcv" in run(code)


def test_who_asked_too_early_is_told():
    code = """
import mmcv.cnn.bricks.transformer, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", UserWarning)
    import statescan.mm
print(*(w.message for w in caught if "statescan" in str(w.message)))
"""
    assert run(code).strip() == (
        "mmcv.cnn.bricks.transformer was imported before statescan.mm, when mmcv had no operators,"
        " and goes on without them: import statescan.mm first."
    )


def test_other_operators_raise_when_called():
    operator = mmcv._ext.nms_rotated
    sentence = r"nms_rotated is .* no stand-in .* MMCV_WITH_OPS=1 pip install .* onedl-mmcv .*\.$"
    with pytest.raises(NotImplementedError, match=sentence):
        operator(1, iou_threshold=0.5)


def test_special_names_are_no_operators():
    assert not hasattr(mmcv._ext, "__path__")


def test_signatures_are_mmcv_s():
    """mmcv's package carries the C++ sources, and pybind.cpp names every argument."""
    source = (Path(mmcv.__file__).parent / "ops/csrc/pytorch/pybind.cpp").read_text()
    for name in mmcv._ext.__all__:
        definition = re.search(rf'm\.def\(\s*"{name}",(.*?)\);', source, re.DOTALL)
        expected = re.findall(r'py::arg\("(\w+)"\)', definition[1])
        assert list(inspect.signature(getattr(mmcv._ext, name)).parameters) == expected, name


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_environment_report():
    report = collect_env()
    assert "statescan.mm.ops on torchvision" in report["MMCV Compiler"]

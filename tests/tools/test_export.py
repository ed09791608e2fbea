"""tools/export.py: files that answer as the model does, or none."""

import importlib
import re
from pathlib import Path

import onnx
import pytest
import timm
import torch

import statescan

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec:FutureWarning",
    "ignore:The given buffer is not writable:UserWarning",  # torch.export.load, as the next
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)
SMALL = statescan.list_models("test_*")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def export(monkeypatch):
    """The tool as a module."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    return importlib.import_module("export")


@pytest.fixture
def run(export, monkeypatch):
    """The tool, run in this process."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["export.py", *map(str, arguments)])
        export.main()

    return run


@pytest.mark.parametrize("name", SMALL)
def test_every_family_becomes_onnx(name, run, tmp_path):
    """Written only after onnxruntime has given the model's answers."""
    file = tmp_path / "model.onnx"
    run(name, file, "--size", 64, 96)
    assert not onnx.load(file).functions  # ONNX's own operators alone
    assert {node.domain for node in onnx.load(file).graph.node} == {""}
    assert list(tmp_path.iterdir()) == [file]


def test_onnx_of_any_batch_height_and_width(run, tmp_path, capsys):
    name = "test_efficientvmamba"
    file = tmp_path / "model.onnx"
    run(name, file, "--size", 64, 96, "--dynamic")
    assert capsys.readouterr().out.startswith(f"wrote {file}: answers as {name}'s, largest")
    (image,) = onnx.load(file).graph.input
    sizes = [size.dim_param for size in image.type.tensor_type.shape.dim]
    assert [bool(size) for size in sizes] == [True, False, True, True]


@pytest.mark.parametrize("options", [[], ["--features"]], ids=["logits", "maps"])
def test_a_program_runs_without_this_library(options, run, tmp_path):
    torch.manual_seed(0)
    weights, file = tmp_path / "weights.pth", tmp_path / "model.pt2"
    model = timm.create_model("test_vmamba", num_classes=7).eval()
    torch.save(model.state_dict(), weights)
    given = ("--checkpoint", weights, "--num-classes", 7, "--size", 64, 64)
    run("test_vmamba", file, *given, *options)
    program = torch.export.load(file)
    assert "statescan" not in program.graph_module.code
    image = torch.randn(1, 3, 64, 64)
    got = program.module()(image)
    want = model.forward_intermediates(image, intermediates_only=True) if options else model(image)
    torch.testing.assert_close(list(got), list(want), atol=1e-5, rtol=1e-4)


def test_what_the_page_says(tmp_path, monkeypatch):
    """The code of docs/export.md, of a small model."""
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)[1]
    code = code.replace("vmamba_tiny_s1l8", "test_vmamba").replace("pretrained=True", "")
    exec(code.replace("224, 224", "64, 96"), {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.pt2"]


def test_a_file_with_other_answers_is_not_written(export, run, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "LARGEST_ERROR", 0.0)
    file = tmp_path / "model.pt2"
    file.write_text("the one before")
    with pytest.raises(
        SystemExit, match=r"^error: the file's answers differ by .*e-0., more than 0e\+00"
    ):
        run("test_vmamba", file, "--size", 32, 32)
    assert file.read_text() == "the one before"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["test_vmamba", "model.pth"], "target is 'model.pth', expected a name ending in .onnx or"),
        (
            ["vmamba_tini_s1l8", "m.onnx"],
            "model is 'vmamba_tini_s1l8': did you mean 'vmamba_tiny_s1l8'?",
        ),
    ],
    ids=["format", "model"],
)
def test_wrong_arguments_are_named(arguments, sentence, run, capsys):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert sentence in capsys.readouterr().err

import sys
from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import DATASETS
from safetensors.torch import load_file, save_file

from statescan.mm import InputError, evaluate, find_config, load_config
from statescan.mm.training.launch import detect_launcher, run_tool, set_resume

CONFIGS = Path(__file__).parents[3] / "configs"
CIFAR_CONFIG = CONFIGS / "classification/vmamba/vmamba_nano_cifar10.py"


@pytest.mark.parametrize(
    "name", ["vmamba_nano_cifar10", "vmamba_nano_cifar10.py", str(CIFAR_CONFIG)]
)
def test_a_config_by_name_or_path(name):
    assert find_config(name, CONFIGS) == CIFAR_CONFIG


@pytest.mark.parametrize(
    "name", ["vmamba_nano_cifar", "vmamba_nano_cifar100", "configs/vmamba_nano_cifar10.py"]
)
def test_an_unknown_config_names_the_nearest(name):
    with pytest.raises(
        InputError, match=rf"there is no config '{name}': did you mean 'vmamba_nano_"
    ):
        find_config(name, CONFIGS)


def test_base_configs_are_no_trainings():
    with pytest.raises(InputError):
        find_config("runtime", CONFIGS)


def test_work_dir_is_named_by_hand_or_after_the_config():
    assert load_config(CIFAR_CONFIG).work_dir == "work_dirs/vmamba_nano_cifar10"
    assert load_config(CIFAR_CONFIG, options={"work_dir": "a"}).work_dir == "a"
    assert load_config(CIFAR_CONFIG, "b", {"work_dir": "a"}).work_dir == "b"


def test_data_root_is_relative_and_reaches_every_dataset():
    for root in ("data/cifar10", "elsewhere"):
        options = {} if root == "data/cifar10" else {"data_root": root}
        config = load_config(CIFAR_CONFIG, options=options)
        loaders = (config.train_dataloader, config.val_dataloader, config.test_dataloader)
        assert {loader.dataset.root for loader in loaders} == {root}


def test_resume_auto_without_a_checkpoint_starts_from_scratch(config):
    assert set_resume(config, "auto") is None
    assert not config.get("resume")


def test_launcher_is_torchruns(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert detect_launcher() == "none"
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "0")
    assert detect_launcher() == "pytorch"


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("no such thing"), "error: no such thing"),
        (KeyboardInterrupt(), "stopped; resuming goes on from the last checkpoint"),
    ],
    ids=["bad input", "Ctrl-C"],
)
def test_a_tool_ends_with_a_sentence(error, message):
    with pytest.raises(SystemExit) as exit:
        run_tool(raising(error))
    assert exit.value.code == message


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_tool(raising(ZeroDivisionError()))


def test_without_mmengine_the_sentence_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("mmengine", "statescan.mm"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mmengine", None)
    with pytest.raises(
        ImportError, match=r"needs MMEngine, but .*: pip install statescan\[train\]"
    ):
        import statescan.mm  # noqa: F401


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_the_authors_weights_are_evaluated(options, tmp_path, suffix):
    """Backbone weights, under official names too, need no classifier's checkpoint around them."""
    golden = load_file(CONFIGS.parent / "tests/golden/vmamba/a.safetensors")
    official = {k[3:]: v for k, v in golden.items() if k.startswith("sd.")}
    path = tmp_path / f"official.{suffix}"
    if suffix == "pth":
        torch.save({"model": official}, path)
    else:
        save_file(official, path)
    backbone = {"name": "test_vmamba", "depths": (1, 1, 2, 1), "dims": (6, 12, 24, 48)}
    options |= {f"model.backbone.{name}": value for name, value in backbone.items()}
    config = load_config(CIFAR_CONFIG, str(tmp_path / "work"), options)
    evaluation = evaluate(config, path)
    model = timm.create_model(num_classes=10, model_name=backbone.pop("name"), **backbone)
    model.load_state_dict(official)
    dataset = DATASETS.build(config.test_dataloader.dataset)
    images = torch.stack([dataset[i]["inputs"] for i in range(len(dataset))])
    with torch.no_grad():
        want = model.eval()(images).softmax(1)
    torch.testing.assert_close(evaluation.scores, want)

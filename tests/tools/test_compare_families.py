"""tools/compare_families.py on sixteen images."""

import json

from test_train_and_test import ROOT, shell, write_cifar10

TOOL = str(ROOT / "tools/compare_families.py")


def test_table_is_written_and_finished_runs_are_kept(tmp_path):
    write_cifar10(tmp_path)
    work, page = tmp_path / "work", tmp_path / "page.md"
    command = [
        *(TOOL, "--data-root", str(tmp_path), "--work-dir", str(work), "--page", str(page)),
        *("--only", "vmamba_nano", "--epochs", "2", "--seeds", "0", "1", "--cfg-options"),
        *("train_dataloader.batch_size=8", "train_dataloader.num_workers=0"),
        *("val_dataloader.num_workers=0", "test_dataloader.num_workers=0"),
        "env_cfg.torch_threads=1",
    ]
    shell(*command)
    first = page.read_text()
    assert "| `vmamba_nano` | 1,1" in first
    assert "| majority class |  | 50.0 |  |" in first
    for seed in (0, 1):
        result = json.loads((work / f"vmamba_nano_cifar10_2_{seed}/metrics.json").read_text())
        assert (result["seed"], result["model"]) == (seed, "vmamba_nano")
    shell(*command)
    assert page.read_text() == first  # minutes included: nothing was trained again

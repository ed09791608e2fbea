"""Two gloo processes train a detector: DDP, and FSDP with the same weights and checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_dense import DETECTOR, ROOT, write_config, write_scenes
from torch import nn

from statescan.mm import InputError, evaluate, load_config
from statescan.mm.checkpoints.files import read_training_checkpoint
from statescan.mm.training.sharding import shard, use_strategy

pytestmark = pytest.mark.filterwarnings("ignore:faster_coco_eval is not:UserWarning:mmdet")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of the work folders ``ddp`` and ``fsdp``, and of the metrics of the first."""
    folder = tmp_path_factory.mktemp("strategies")
    (folder / "data").mkdir()
    write_scenes(folder / "data", 8)
    path = write_config(folder / "dense.py", DETECTOR, length=2)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    worker = Path(__file__).with_name("strategy_worker.py")
    subprocess.run(
        [sys.executable, *torchrun, *map(str, (worker, path, folder / "data", folder))],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return folder


def test_both_train_to_the_same_weights(trained):
    ddp, fsdp = (read_training_checkpoint(trained / s / "epoch_2.pth") for s in ("ddp", "fsdp"))
    assert ddp["state_dict"].keys() == fsdp["state_dict"].keys()
    for name, value in ddp["state_dict"].items():
        torch.testing.assert_close(fsdp["state_dict"][name], value, rtol=1e-5, atol=1e-6)
    assert fsdp["optimizer"]["param_groups"] == ddp["optimizer"]["param_groups"]
    for index, state in ddp["optimizer"]["state"].items():
        for name, value in state.items():
            ours = fsdp["optimizer"]["state"][index][name]
            torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-8)


def test_one_process_evaluates_to_the_same_metrics(trained):
    config = load_config(
        trained / "dense.py", str(trained / "one"), {"data_root": str(trained / "data")}
    )
    alone = evaluate(config, trained / "ddp/epoch_2.pth").metrics
    assert alone == json.loads((trained / "metrics.json").read_text())


def test_what_fsdp_cannot_do(trained):
    config = load_config(trained / "dense.py")
    config.launcher = "none"
    with pytest.raises(InputError, match="in one process: start several with torchrun"):
        use_strategy(config, "fsdp")
    config.launcher, config.custom_hooks = "pytorch", [{"type": "EMAHook"}]
    with pytest.raises(InputError, match="EMAHook needs whole ones"):
        use_strategy(config, "fsdp")
    model = nn.Linear(2, 2)
    model.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(InputError, match="cannot divide scale, a single number: use 'ddp'"):
        shard(model)

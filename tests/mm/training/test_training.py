import math

import pytest
import torch

from statescan.mm import InputError, evaluate, train
from statescan.mm.checkpoints.files import latest_checkpoint, read_training_checkpoint
from statescan.mm.training.launch import use_amp


@pytest.fixture
def trained(config):
    return train(config)


def test_training_leaves_one_checkpoint_and_its_history(trained, config):
    path = latest_checkpoint(config.work_dir)
    assert [p.name for p in path.parent.glob("*.pth*")] == ["epoch_2.pth"]
    history = read_training_checkpoint(path)["message_hub"]["runtime_info"]["history"]
    assert [set(entry) for entry in history] == [{"epoch", "lr", "loss", "top1", "top5"}] * 2
    assert all(math.isfinite(entry["loss"]) for entry in history)


def test_evaluation_of_the_last_checkpoint_repeats_the_last_validation(trained, config):
    history = trained.message_hub.get_info("history")
    evaluation = evaluate(config, latest_checkpoint(config.work_dir))
    assert evaluation.metrics == {name: history[-1][name] for name in ("top1", "top5")}
    assert evaluation.scores.shape == (24, 10)
    assert evaluation.labels.shape == (24,)


def test_a_finished_training_goes_on_to_nothing(trained, config):
    before = latest_checkpoint(config.work_dir).read_bytes()
    again = train(config, resume="auto")
    assert again.epoch == 2
    assert latest_checkpoint(config.work_dir).read_bytes() == before


def test_tensorboard_gets_loss_and_metrics(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"{trained.log_dir}/vis_data").Reload()
    assert {"loss", "lr", "top1"} <= set(events.Tags()["scalars"])


def test_a_line_an_epoch_and_nothing_else_on_the_console(config, capfd):
    train(config)
    out, err = capfd.readouterr()
    model, start, *epochs = out.splitlines()
    assert model.startswith("test_convnext, ")
    assert start == "starting from scratch"
    assert [line.split("  ")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    assert err == ""


def test_amp_trains_in_bf16(config):
    use_amp(config)
    config.train_cfg.max_epochs = 1
    dtypes = set()
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: dtypes.add(getattr(output, "dtype", None))
    )
    try:
        runner = train(config)
    finally:
        hook.remove()
    assert torch.bfloat16 in dtypes
    assert {parameter.dtype for parameter in runner.model.parameters()} == {torch.float32}


def test_gradients_are_clipped(config):
    config.optim_wrapper.clip_grad.max_norm = 1e-3
    config.train_cfg.max_epochs = 1
    norms = []
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.linalg.vector_norm(torch.cat([g.flatten() for g in grads])).item())
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        train(config)
    assert max(norms) <= 1.001e-3


def test_another_seed_does_not_go_on_from_this_one(trained, config):
    config.randomness.seed = 5
    with pytest.raises(
        InputError, match=r"epoch_2\.pth is of a run with seed 0, this one has seed 5"
    ):
        train(config, resume="auto")


def test_weights_alone_cannot_be_resumed(trained, config, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": trained.model.state_dict()}, path)
    with pytest.raises(InputError, match=r"weights\.pth has no meta, optimizer"):
        train(config, resume=str(path))
    assert evaluate(config, path).labels.shape == (24,)


def test_missing_data_folder(config):
    config.train_dataloader.dataset.root = "data/nowhere"
    with pytest.raises(InputError, match=r"there is no data folder 'data/nowhere'"):
        train(config)


def test_persistent_workers_are_not_kept(config):
    config.train_dataloader.update(num_workers=1, persistent_workers=True)
    config.train_cfg.max_epochs = 1
    assert not train(config).train_dataloader.persistent_workers

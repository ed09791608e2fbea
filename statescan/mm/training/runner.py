"""MMEngine's Runner with safe checkpoints, DDP on CPU and a quiet console."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import barrier, is_distributed
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoints.files import RESUMABLE, drop_logs
from ..data.loading import load_safely
from ..errors import InputError
from ..models.backbone import read_fitting
from .sharding import divide_checkpoint, is_sharded, shard, whole_states

DEFAULT_HOOKS = {
    "data_check": {"type": "DataCheckHook"},
    "seed": {"type": "EpochSeedHook"},
    "history": {"type": "HistoryHook"},
    "progress": {"type": "ProgressHook"},
    "skipped_images": {"type": "SkippedImagesHook"},
}


ADVICE = ('"FileClient" will be', '"HardDiskBackend" is the', "The prefix is not set in metric")


def _worth_showing(record: logging.LogRecord) -> bool:
    """False for what tells a user nothing: MMEngine's advice about OpenMMLab's own classes."""
    return not str(record.msg).startswith(ADVICE)


@RUNNERS.register_module()
class StateScanRunner(Runner):
    """MMEngine's Runner, with these differences.

    - Checkpoints are read safely and must fit the model and seed exactly.
    - Where there is no GPU, distributed training uses gloo on CPU. ``strategy="fsdp"`` divides the
      model among the processes (`statescan.mm.training.sharding`).
    - ``env_cfg=dict(torch_threads=2)`` sets the number of CPU threads, on which the last bits of
      float sums depend.
    - Only warnings reach the console; the log file has everything. A progress bar, or a line an
      epoch, stands there instead.
    - Trainings resume exactly, those that count iterations too: seeds are set by epoch or iteration
      (`EpochSeedHook`, `ResumableIterLoop`).
    - Detectors and segmenters read images by `LoadImage`, so that a corrupt one is named, or with
      ``skip_corrupt=True`` in the config skipped and counted; annotations are checked.
    - ``default_hooks`` has all of `DEFAULT_HOOKS` too, where None leaves one out.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Start the process group and set the threads, then do what MMEngine does."""
        if self.distributed:
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            os.environ.setdefault("MKL_NUM_THREADS", "1")
        if self.distributed and not (torch.cuda.is_available() or is_distributed()):
            torch.distributed.init_process_group("gloo")
        if env_cfg.get("torch_threads"):
            torch.set_num_threads(env_cfg["torch_threads"])
        super().setup_env(env_cfg)

    def _log_env(self, env_cfg: dict) -> None:
        """Log the environment, where several processes start, after one has imported yapf.

        MMEngine formats the config with it, and its first import on a machine writes tables that
        another process would read half-written.
        """
        if os.environ.get("LOCAL_RANK", "0") == "0":
            import yapf  # noqa: F401
        barrier()
        super()._log_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Divide for FSDP, or wrap for DDP; on CPU without the device ids that MMEngine passes."""
        if self.cfg.get("strategy") == "fsdp":
            model = model.to(get_device())
            self._init_model_weights()
            shard(model)
            return model
        if self.distributed and not torch.cuda.is_available():
            model_wrapper_cfg = dict(
                model_wrapper_cfg or {"type": "MMDistributedDataParallel"}, device_ids=None
            )
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        """Initialise, but not what a checkpoint replaces, nor what is divided already."""
        if not self._resume and not is_sharded(self.model):
            super()._init_model_weights()

    def register_default_hooks(self, hooks: dict | None = None) -> None:
        """MMEngine's default hooks and `DEFAULT_HOOKS`."""
        hooks = {**DEFAULT_HOOKS, **(hooks or {})}
        left_out = [name for name in DEFAULT_HOOKS if hooks[name] is None]
        super().register_default_hooks({k: v for k, v in hooks.items() if k not in left_out})

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """The loop of a config; one that counts iterations as `ResumableIterLoop`."""
        if isinstance(loop, dict):
            counts_epochs = loop.get("by_epoch", loop.get("type") != "IterBasedTrainLoop")
            if not counts_epochs:
                loop = {k: v for k, v in loop.items() if k != "by_epoch"}
                loop["type"] = "ResumableIterLoop"
        return super().build_train_loop(loop)

    def build_dataloader(self, dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """A data loader whose pipelines name or skip what cannot be read."""
        if isinstance(dataloader, dict):
            dataloader = {**dataloader, "dataset": self._load_safely(dataloader["dataset"])}
        return super().build_dataloader(dataloader, *args, **kwargs)

    def register_hook(self, hook: Hook | dict, *args, **kwargs) -> None:
        """Register a hook; a pipeline that it switches to reads as those of the data loaders."""
        super().register_hook(self._load_safely(hook), *args, **kwargs)

    def _load_safely(self, config: Any) -> Any:
        segmentation = self.cfg.get("default_scope") == "mmseg"
        return load_safely(config, self.cfg.get("skip_corrupt", False), segmentation)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        """MMEngine's logger with its console handler at warnings."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(max(handler.level, logging.WARNING))
                handler.addFilter(_worth_showing)
        return logger

    def load_checkpoint(self, filename: str, map_location="cpu", **kwargs) -> dict:
        """Load weights, and for a resume check that the rest is there.

        Raises:
            InputError: The file is damaged, foreign, of another model or of another seed.
        """
        resuming = self._resume
        model = self.model.module if is_model_wrapper(self.model) else self.model
        required = RESUMABLE if resuming else ("state_dict",)
        if resuming and self.param_schedulers is not None:
            required += ("param_schedulers",)
        checkpoint = read_fitting(filename, model, map_location, required)
        if resuming:
            self._check_seed(filename, checkpoint["meta"])
            drop_logs(checkpoint["message_hub"])
        if is_sharded(model):
            divide_checkpoint(checkpoint, model, self.optim_wrapper.optimizer if resuming else None)
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        self._has_loaded = True
        return checkpoint

    def save_checkpoint(self, *args, **kwargs) -> None:
        """Save as MMEngine does; what is divided is put together first."""
        if is_sharded(self.model):
            with whole_states(self.model, self.optim_wrapper.optimizer):
                super().save_checkpoint(*args, **kwargs)
        else:
            super().save_checkpoint(*args, **kwargs)

    def _check_seed(self, filename: str, meta: dict) -> None:
        if meta.get("seed") != self.seed:
            raise InputError(
                f"checkpoint {filename} is of a run with seed {meta.get('seed')}, "
                f"this one has seed {self.seed}: give the same seed or another work folder"
            )

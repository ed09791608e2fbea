"""MMEngine's Runner with safe checkpoints, DDP on CPU and a quiet console."""

from __future__ import annotations

import logging
import os

import torch
from mmengine.dist import barrier
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn

from .backbone import read_fitting
from .checkpoint import RESUMABLE, drop_logs
from .errors import InputError


def _worth_showing(record: logging.LogRecord) -> bool:
    """False for MMEngine's advice against its own file classes, given at the first save."""
    return not str(record.msg).startswith(('"FileClient" will be', '"HardDiskBackend" is the'))


@RUNNERS.register_module()
class StateScanRunner(Runner):
    """MMEngine's Runner, with four differences.

    - Checkpoints are read safely and must fit the model and seed exactly.
    - Where there is no GPU, distributed training uses gloo on CPU.
    - ``env_cfg=dict(torch_threads=2)`` sets the number of CPU threads, on which the last bits of
      float sums depend.
    - Only warnings reach the console; the log file has everything.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Start the process group and set the threads, then do what MMEngine does."""
        if self.distributed:
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            os.environ.setdefault("MKL_NUM_THREADS", "1")
        if self.distributed and not torch.cuda.is_available():
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
        """Wrap for DDP; on CPU without the device ids that MMEngine always passes."""
        if self.distributed and not torch.cuda.is_available():
            model_wrapper_cfg = dict(
                model_wrapper_cfg or {"type": "MMDistributedDataParallel"}, device_ids=None
            )
        return super().wrap_model(model_wrapper_cfg, model)

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
        checkpoint = read_fitting(filename, model, map_location, required)
        if resuming:
            self._check_seed(filename, checkpoint["meta"])
            drop_logs(checkpoint["message_hub"])
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        model.load_state_dict(checkpoint["state_dict"])
        self._has_loaded = True
        return checkpoint

    def _check_seed(self, filename: str, meta: dict) -> None:
        if meta.get("seed") != self.seed:
            raise InputError(
                f"checkpoint {filename} is of a run with seed {meta.get('seed')}, "
                f"this one has seed {self.seed}: give the same seed or another work folder"
            )

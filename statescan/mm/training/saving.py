"""Saving checkpoints, of which one is whole at any moment.

`AtomicCheckpointHook` saves after an epoch's validation, so that a resumed training has its metrics
too. `SafeCheckpointHook` is for recipes that give arguments of MMEngine's hook, such as
``save_best``; it saves when that does, which is before the validation, and the best one after it.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checkpoints.files import POINTER, AtomicBackend, atomic_write, drop_logs
from .hooks import EpochEndHook, by_epoch, progress


@HOOKS.register_module()
class AtomicCheckpointHook(EpochEndHook):
    """Saves ``epoch_N.pth`` or ``iter_N.pth`` so that a kill at any moment leaves a usable one.

    The order is: the new file, the pointer ``last_checkpoint`` to it, then the removal of old
    ones. (MMEngine's own hook removes the old file first and writes the new one in place.)

    Args:
        interval: Epochs (validation intervals where training counts iterations) between two
            checkpoints; the last epoch is always saved.
        keep: How many of them to keep.
    """

    priority = "VERY_LOW"

    def __init__(self, interval: int = 1, keep: int = 1):
        self.interval, self.keep = interval, keep

    def end_of_epoch(self, runner: Runner) -> None:
        """Save, point, remove."""
        done, last, kind = progress(runner)
        interval = self.interval * (1 if by_epoch(runner) else runner.train_loop.val_interval)
        if done % interval and done < last:
            return
        path = Path(runner.work_dir) / f"{kind}_{done}.pth"
        runner.save_checkpoint(
            str(path.parent),
            path.name,
            meta={"epoch": runner.epoch, "iter": runner.iter},
            backend_args={"backend": "statescan_atomic"},
        )
        if is_main_process():
            atomic_write(path.parent / POINTER, str(path).encode())
            self._remove_old(path.parent, kind, done)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave out what is not plain data."""
        drop_logs(checkpoint["message_hub"])

    def _remove_old(self, folder: Path, kind: str, done: int) -> None:
        """Remove the checkpoints before number ``done``, but for the latest ``keep - 1``."""
        matches = [re.fullmatch(rf"{kind}_(\d+)\.pth", path.name) for path in folder.iterdir()]
        before = sorted((int(m[1]) for m in matches if m and int(m[1]) < done), reverse=True)
        for old in before[self.keep - 1 :]:
            (folder / f"{kind}_{old}.pth").unlink()


class _RemoveLater:
    """A file backend whose ``remove`` waits until `remove_now`."""

    def __init__(self, backend):
        self.backend, self.waiting = backend, []

    def __getattr__(self, name: str):
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        """Note ``path``."""
        self.waiting.append(path)

    def remove_now(self) -> None:
        """Remove what waits and has not gone otherwise."""
        for path in filter(self.backend.isfile, self.waiting):
            self.backend.remove(path)
        self.waiting = []


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, all of whose arguments it takes, in a safe order.

    MMEngine removes the oldest checkpoint, or the best one so far, before it writes the new one,
    and empties ``last_checkpoint`` before it writes that: a full disk or a kill in between leaves
    none. Here files are written whole or not at all, and the old are removed after that.
    """

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("backend_args", {"backend": "statescan_atomic"})
        super().__init__(*args, **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Put removals off."""
        super().before_train(runner)
        self.file_backend = _RemoveLater(self.file_backend)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save, point, remove."""
        self._let_go_of_oldest(runner, step)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            AtomicBackend().put(self.last_ckpt.encode(), Path(runner.work_dir) / POINTER)
            self.file_backend.remove_now()

    def _let_go_of_oldest(self, runner: Runner, step: int) -> None:
        """Keep ``max_keep_ckpts`` with that of ``step``, where there is such a number."""
        if self.max_keep_ckpts <= 0 or (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            return
        if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
            oldest = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            self.file_backend.remove(self.file_backend.join_path(self.out_dir, oldest))
        self.keep_ckpt_ids.append(step)
        runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        super()._save_best_checkpoint(runner, metrics)
        if is_main_process():
            self.file_backend.remove_now()

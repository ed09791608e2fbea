#!/usr/bin/env python
"""Time whole detectors, before, in and after the network: ``python tools/benchmark_detector.py``.

    python tools/benchmark_detector.py [--threads 1 2] [--size 640] [--json FILE]

Mamba-YOLO-T beside RTMDet-tiny and YOLOX-tiny of MMDetection, weights drawn at random, one image
of 640x480 pixels as a JPEG file, float32; on a CPU, and on a GPU where there is one. The detectors
take turns and the shortest time of each stage counts, the one that the machine's other work
disturbed least; with one thread it is the processor's time, which that work does not lengthen.
Ratios within a run mean more than the times.

- before: read, resize, pad, normalise
- network: backbone, neck and head
- after: decode and suppress, where the score's threshold lets as many candidates through for each

Mamba-YOLO's predictions are compared with those of the scan in plain torch before any time counts.
Memory is what a new process needs for its first image beside the weights.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

import statescan.mm.models.mamba_yolo  # noqa: F401
from statescan.backbones.mamba_yolo_detector import flatten
from statescan.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import models  # noqa: E402

OURS = "mamba_yolo_tiny"
DETECTORS = {
    OURS: f"{ROOT}/configs/detection/mamba_yolo/mamba_yolo_tiny_coco.py",
    "rtmdet_tiny": "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    "yolox_tiny": "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py",
}
STAGES = ("before", "network", "after")
CANDIDATES = 1000


class Detector(NamedTuple):
    """A model of MMDetection and the pipeline that reads its images."""

    model: nn.Module
    pipeline: Compose


def read_config(name: str) -> Config:
    """A detector's config, ours or one that MMDetection brings."""
    if not name.startswith("mmdet::"):
        return Config.fromfile(name)
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(f"_base_ = {name!r}")
        file.flush()
        return Config.fromfile(file.name)


def build(config: str, size: int, device: str) -> Detector:
    """A detector with random weights for squares of ``size`` pixels."""
    config = read_config(config)
    config.model.backbone.pop("init_cfg", None)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = revert_sync_batchnorm(MODELS.build(config.model)).to(device).eval()
        pipeline = Compose(list(steps(config.test_dataloader.dataset.pipeline, size)))
    return Detector(model, pipeline)


def steps(pipeline: list[dict], size: int) -> Iterator[dict]:
    """A test pipeline's steps for images without labels, at ``size`` pixels."""
    for step in pipeline:
        if step["type"] == "Resize":
            step["scale"] = (size, size)
        if step["type"] == "Pad":
            step["size"] = (size, size)
            step.pop("pad_to_square", None)
        if step["type"] != "LoadAnnotations":
            yield step


def before(detector: Detector, path: Path) -> dict:
    """An image's batch of one, as the network takes it."""
    data = detector.pipeline({"img_path": str(path), "img_id": 0})
    batch = {"inputs": [data["inputs"]], "data_samples": [data["data_samples"]]}
    return detector.model.data_preprocessor(batch)


def network(detector: Detector, batch: dict) -> tuple:
    """The head's maps."""
    return detector.model(batch["inputs"], mode="tensor")


def after(detector: Detector, batch: dict, maps: tuple) -> None:
    """Detections in the image's own pixels."""
    metas = [sample.metainfo for sample in batch["data_samples"]]
    detector.model.bbox_head.predict_by_feat(*maps, batch_img_metas=metas, rescale=True)


def set_threshold(detector: Detector, maps: tuple) -> None:
    """Let `CANDIDATES` of these maps' scores through: random weights would let all or none."""
    scores = flatten(maps[0]).sigmoid()
    if len(maps) == 3:  # YOLOX: the best class, times whether there is an object
        scores = (scores * flatten(maps[2]).sigmoid()).amax(1)
    candidates = scores.flatten().topk(min(CANDIDATES, scores.numel())).values
    detector.model.bbox_head.test_cfg.score_thr = candidates[-1].item()


@contextmanager
def clock(times: dict[str, list[float]], stage: str, device: str):
    """Add the seconds that a stage takes, the GPU's included."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if alone else time.perf_counter
    start = now()
    yield
    if device == "cuda":
        torch.cuda.synchronize()
    times[stage].append(now() - start)


@torch.inference_mode()
def detect(detector: Detector, path: Path, device: str, times: dict[str, list[float]]) -> None:
    """One image from file to detections, each stage timed."""
    with clock(times, "before", device):
        batch = before(detector, path)
    with clock(times, "network", device):
        maps = network(detector, batch)
    with clock(times, "after", device):
        after(detector, batch, maps)


def take_turns(detectors: dict[str, Detector], path: Path, device: str, rounds: int) -> dict:
    """The shortest seconds of each detector's stages, after a round to warm up."""
    times = {name: {stage: [] for stage in STAGES} for name in detectors}
    for _ in range(rounds + 1):
        for name, detector in detectors.items():
            detect(detector, path, device, times[name])
    return {name: {s: min(t[1:]) for s, t in stages.items()} for name, stages in times.items()}


class Predictions(nn.Module):
    """A plain detector's predictions as what a module gives."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Tensor:
        """Predict, and suppress nothing."""
        return self.detector.predict(x)


def check(detector: Detector, x: Tensor) -> float:
    """Error of our predictions, relative to the largest, beside those of the scan in torch."""
    return models.check(OURS, Predictions(detector.model.plain()), x)


def _peak(queue, config: str, size: int, path: Path, device: str) -> None:
    torch.set_num_threads(1)
    detector = build(config, size, device)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the model
    resident, allocated = models.resident("VmRSS"), gpu_memory(device)
    detect(detector, path, device, {stage: [] for stage in STAGES})
    cpu = models.resident("VmHWM") - resident
    queue.put((gpu_memory(device) - allocated) / 2**20 if device == "cuda" else cpu / 2**10)


def gpu_memory(device: str) -> int:
    """Most bytes that tensors took on a GPU so far."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


def peak_memory(config: str, size: int, path: Path, device: str) -> float:
    """MiB that a detector needs for its first image in a new process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    child = context.Process(target=_peak, args=(queue, config, size, path, device))
    child.start()
    found = queue.get(timeout=900)
    child.join()
    return found


def write_image(folder: str) -> Path:
    """A JPEG file of 640x480 pixels: smooth noise."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    path = Path(folder) / "image.jpg"
    cv2.imwrite(str(path), cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC))
    return path


def measure(path: Path, size: int, device: str, threads: list[int], rounds: int) -> dict:
    """Every detector's figures on one device."""
    detectors = {name: build(config, size, device) for name, config in DETECTORS.items()}
    with torch.inference_mode():
        batches = {name: before(d, path) for name, d in detectors.items()}
        for name, detector in detectors.items():
            set_threshold(detector, network(detector, batches[name]))
        result = {"error": check(detectors[OURS], batches[OURS]["inputs"])}
    result["parameters"] = {n: count(d.model) for n, d in detectors.items()}
    result["memory"] = {n: peak_memory(c, size, path, device) for n, c in DETECTORS.items()}
    result["seconds"] = {}
    for number in threads:
        torch.set_num_threads(number)
        result["seconds"][str(number)] = take_turns(detectors, path, device, rounds)
    return result


def count(model: nn.Module) -> int:
    """Parameters."""
    return sum(p.numel() for p in model.parameters())


def rows(device: str, result: dict) -> Iterator[list[str]]:
    """A table's rows: a detector with a number of threads each, milliseconds and MiB."""
    for threads, detectors in result["seconds"].items():
        ours = sum(detectors[OURS].values())
        for name, stages in detectors.items():
            yield [
                name,
                device if device == "cuda" else f"{threads} thread{'s' * (threads != '1')}",
                *(f"{1e3 * stages[stage]:.1f}" for stage in STAGES),
                f"{1e3 * sum(stages.values()):.1f}",
                f"{ours / sum(stages.values()):.2f}",
                f"{result['memory'][name]:.0f}",
                f"{result['parameters'][name] / 1e6:.2f} M",
            ]


def line(cells: Sequence[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    *("detector", "on", "before, ms", "network, ms", "after, ms", "all, ms"),
    *("speed", "memory, MiB", "parameters"),
)


def main() -> None:
    """Measure, print a table, and write the figures as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="on the CPU")
    parser.add_argument("--size", type=int, default=640, help="side of the square in pixels")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads[0])
    results = {**models.facts(args.threads[0]), "threads": args.threads, "size": args.size}
    print(line(COLUMNS), line(["---"] * len(COLUMNS)), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        path = write_image(folder)
        for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
            threads = args.threads if device == "cpu" else args.threads[:1]
            results[device] = measure(path, args.size, device, threads, args.rounds)
            for row in rows(device, results[device]):
                print(line(row), flush=True)
            if args.json:
                atomic_write(args.json, (json.dumps(results, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()

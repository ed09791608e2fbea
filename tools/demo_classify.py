#!/usr/bin/env python
"""Train vmamba_nano from scratch on photographs of solar cells and show how well it does.

Writes ``work_dirs/demo/``: checkpoint, metrics.json and demo.png. Killed at any moment, the same
command goes on and ends with the same numbers. To start again, delete the folder.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction

from statescan.mm import InputError, StateScanRunner, evaluate, load_config, train
from statescan.mm.checkpoints.files import atomic_write, latest_checkpoint
from statescan.mm.data.classification import load_cells, split_cells
from statescan.mm.reports.baselines import baselines
from statescan.mm.reports.picture import Answers, Curve, draw
from statescan.mm.training.launch import Evaluation, run_tool

CONFIG = Path(__file__).resolve().parents[1] / "configs/classification/vmamba/vmamba_nano_elpv.py"
METRICS = ("roc_auc", "balanced_accuracy")
CLASSES = ("sound", "defective")
BASELINE_PIXELS, EXAMPLE_PIXELS = 32, 150


def parse_args() -> argparse.Namespace:
    """Command line of this tool."""
    parser = argparse.ArgumentParser(description="Train and evaluate on solar cells.")
    parser.add_argument("--seed", type=int, default=0, help="of the training, not of the split")
    parser.add_argument("--work-dir", default="work_dirs/demo")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


def cells(split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, size, size) grey values and (N,) class numbers of a split."""
    images, probabilities, kinds = load_cells(size)
    chosen = split_cells(split, probabilities, kinds)
    return images[chosen], (probabilities[chosen] >= 0.5).astype(np.int64)


def read_results(work_dir: Path, seed: int) -> dict | None:
    """Results of a finished run in ``work_dir``, or None.

    Raises:
        InputError: They are of another seed.
    """
    path = work_dir / "metrics.json"
    if not path.exists():
        return None
    results = json.loads(path.read_text())
    if results["seed"] != seed:
        raise InputError(
            f"{path} is of seed {results['seed']}, not {seed}: delete {work_dir} or name another"
        )
    return results


def run(config: Config) -> dict:
    """Fit the baselines, train, evaluate, draw; return and write the results."""
    compared = baselines(cells("train", BASELINE_PIXELS), cells("test", BASELINE_PIXELS), METRICS)
    runner = train(config, resume="auto")
    work_dir = Path(config.work_dir)
    evaluation = evaluate(config, latest_checkpoint(work_dir))
    results = summarise(runner, config, evaluation, compared)
    atomic_write(work_dir / "demo.png", picture(results, evaluation))
    atomic_write(work_dir / "metrics.json", (json.dumps(results, indent=2) + "\n").encode())
    return results


def summarise(
    runner: StateScanRunner, config: Config, evaluation: Evaluation, compared: dict
) -> dict:
    """Everything that metrics.json holds; no times, so that equal runs give equal files."""
    return {
        "model": config.model.backbone.name,
        "parameters": sum(parameter.numel() for parameter in runner.model.parameters()),
        "seed": runner.seed,
        "epochs": runner.max_epochs,
        "test_images": len(evaluation.labels),
        "metrics": evaluation.metrics,
        "baselines": compared,
        "history": runner.message_hub.get_info("history"),
    }


def picture(results: dict, evaluation: Evaluation) -> bytes:
    """PNG of the run."""
    title = (
        f"{results['model']}: ROC-AUC {results['metrics']['roc_auc']:.3f} on "
        f"{results['test_images']} held-out solar cells"
    )
    references = {name: values["roc_auc"] for name, values in results["baselines"].items()}
    curve = Curve(results["history"], "roc_auc", references)
    images, _ = cells("test", EXAMPLE_PIXELS)
    scores, labels = evaluation.scores.numpy(), evaluation.labels.numpy()
    return draw(title, curve, Answers(scores, labels, images, CLASSES))


def table(results: dict) -> str:
    """The model beside the baselines."""
    rows = {**results["baselines"], results["model"]: results["metrics"]}
    lines = [f"{'':20}  ROC-AUC  balanced accuracy"]
    for name, values in rows.items():
        auc, accuracy = (values[metric] for metric in METRICS)
        lines.append(f"{name:20}  {auc:7.3f}  {accuracy:17.3f}")
    return "\n".join(lines)


def main() -> None:
    """Run the demo, or show the results of one that is finished."""
    args = parse_args()
    started = time.monotonic()
    results = read_results(Path(args.work_dir), args.seed)
    if results is None:
        options = {**(args.cfg_options or {}), "randomness.seed": args.seed}
        results = run(load_config(CONFIG, args.work_dir, options))
        print(f"finished in {(time.monotonic() - started) / 60:.1f} minutes")
    else:
        print(f"already finished; delete {args.work_dir} to start again")
    print(table(results))
    print(f"picture: {args.work_dir}/demo.png")


if __name__ == "__main__":
    run_tool(main)

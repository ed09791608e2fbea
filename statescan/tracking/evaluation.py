"""HOTA, MOTA, IDF1 and their parts, computed by TrackEval."""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from . import mot_files
from .mot_files import Boxes

MEASURES = {
    "HOTA": ("HOTA", "HOTA"),
    "DetA": ("HOTA", "DetA"),
    "AssA": ("HOTA", "AssA"),
    "MOTA": ("CLEAR", "MOTA"),
    "IDF1": ("Identity", "IDF1"),
    "IDSW": ("CLEAR", "IDSW"),
}
TOGETHER = "COMBINED_SEQ"  # TrackEval's name for all sequences as one
PEDESTRIAN = 1  # the class that TrackEval's MOTChallenge benchmark counts

Sequence = Mapping[int, Boxes]


def evaluate(
    truth: Mapping[str, Sequence], results: Mapping[str, Sequence], lengths: Mapping[str, int]
) -> dict[str, float]:
    """Measures over all sequences together, as TrackEval's MOTChallenge benchmark gives them.

    Args:
        truth: ground truth by the name of the sequence, frames by number.
        results: what a tracker gave, for the same sequences.
        lengths: number of frames of each sequence.

    Returns:
        HOTA, DetA, AssA (means over overlaps), MOTA and IDF1 between 0 and 1, and the number of
        identity switches.

    Raises:
        ValueError: for sequences without results.
    """
    return evaluate_each(truth, results, lengths)[TOGETHER]


def evaluate_each(
    truth: Mapping[str, Sequence], results: Mapping[str, Sequence], lengths: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """The measures of `evaluate`, whose arguments these are, by sequence, and `TOGETHER`."""
    missing = sorted(truth.keys() - results.keys())
    if missing:
        raise ValueError(f"results have no {', '.join(missing)}, expected every sequence of truth")
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name, frames in truth.items():
            mot_files.write(root / "gt" / name / "gt" / "gt.txt", frames.items(), PEDESTRIAN)
            mot_files.write(
                root / "results" / "ours" / "data" / f"{name}.txt", results[name].items()
            )
        return run_trackeval(root, {name: lengths[name] for name in truth})


def run_trackeval(root: Path, lengths: dict[str, int]) -> dict[str, dict[str, float]]:
    """TrackEval over ``root/gt/NAME/gt/gt.txt`` and ``root/results/ours/data/NAME.txt``."""
    import trackeval

    quiet = {"PRINT_CONFIG": False}
    dataset = trackeval.datasets.MotChallenge2DBox(
        {
            **quiet,
            "GT_FOLDER": str(root / "gt"),
            "TRACKERS_FOLDER": str(root / "results"),
            "SEQ_INFO": lengths,
            "SKIP_SPLIT_FOL": True,
            "BENCHMARK": "MOT15",  # no distractors to take out
        }
    )
    outputs = ("OUTPUT_SUMMARY", "OUTPUT_DETAILED", "PLOT_CURVES", "TIME_PROGRESS", "PRINT_RESULTS")
    options = {**quiet, **dict.fromkeys(outputs, False), "BREAK_ON_ERROR": True}
    options["LOG_ON_ERROR"] = str(root / "error.txt")
    kinds = (trackeval.metrics.HOTA, trackeval.metrics.CLEAR, trackeval.metrics.Identity)
    metrics = [kind(quiet) for kind in kinds]
    with redirect_stdout(io.StringIO()):
        answers, _ = trackeval.Evaluator(options).evaluate([dataset], metrics)
    return {
        sequence: {
            name: float(found["pedestrian"][part][key].mean())
            for name, (part, key) in MEASURES.items()
        }
        for sequence, found in answers["MotChallenge2DBox"]["ours"].items()
    }

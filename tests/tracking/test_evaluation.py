"""Our figures are TrackEval's own and py-motmetrics'."""

import csv
import subprocess
import sys
from pathlib import Path

import motmetrics
import numpy as np
import pytest

from statescan.tracking import Kalman, MambaTracker, mot_files
from statescan.tracking.boxes import iou_matrix
from statescan.tracking.evaluation import TOGETHER, evaluate, evaluate_each
from statescan.tracking.mot_files import Boxes

DATA = Path(motmetrics.__file__).parent / "data"
LENGTHS = {"TUD-Campus": 71, "TUD-Stadtmitte": 179}


@pytest.fixture(scope="module")
def truth():
    return {name: mot_files.read(DATA / name / "gt.txt") for name in LENGTHS}


@pytest.fixture(scope="module")
def results(truth):
    """Tracks of the ground truth's boxes, a third of them lost."""
    return {name: tracked(frames, LENGTHS[name]) for name, frames in truth.items()}


def tracked(frames, length):
    tracker, rng = MambaTracker(Kalman()), np.random.default_rng(0)
    found = {}
    for frame in range(1, length + 1):
        _, boxes, _ = frames.get(frame, mot_files.NO_BOXES)
        boxes = boxes[rng.random(len(boxes)) > 1 / 3]
        ids = tracker.update(boxes, np.ones(len(boxes)))
        found[frame] = Boxes(ids, boxes, np.ones(len(boxes)))
    return found


def test_perfect_results(truth):
    measures = evaluate(truth, truth, LENGTHS)
    assert measures.pop("IDSW") == 0
    assert all(value == pytest.approx(1) for value in measures.values())


SCRIPT = """
import sys, trackeval
root = sys.argv[1]
dataset = trackeval.datasets.MotChallenge2DBox(dict(
    GT_FOLDER=f"{root}/gt", TRACKERS_FOLDER=f"{root}/results", BENCHMARK="MOT15",
    SEQMAP_FILE=f"{root}/sequences.txt"))
metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR(), trackeval.metrics.Identity()]
trackeval.Evaluator(dict(PLOT_CURVES=False)).evaluate([dataset], metrics)
"""


def test_trackevals_own_run(truth, results, tmp_path):
    """As TrackEval's run_mot_challenge.py does it, from folders to a table in a file."""
    name = "TUD-Stadtmitte"
    folder = tmp_path / "gt" / "MOT15-train" / name
    mot_files.write(folder / "gt" / "gt.txt", truth[name].items(), label=1)
    (folder / "seqinfo.ini").write_text(f"[Sequence]\nname={name}\nseqLength={LENGTHS[name]}\n")
    output = tmp_path / "results" / "MOT15-train" / "ours"
    mot_files.write(output / "data" / f"{name}.txt", results[name].items())
    (tmp_path / "sequences.txt").write_text(f"name\n{name}\n")
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    with open(output / "pedestrian_detailed.csv") as file:
        row = next(r for r in csv.DictReader(file) if r["seq"] == "COMBINED")
    ours = evaluate({name: truth[name]}, {name: results[name]}, LENGTHS)
    for measure, value in ours.items():
        column = f"{measure}___AUC" if measure in ("HOTA", "DetA", "AssA") else measure
        assert value == pytest.approx(float(row[column]), abs=1e-6)


def test_motmetrics(truth, results):
    pairs = []
    for name in LENGTHS:
        accumulator = motmetrics.MOTAccumulator(auto_id=True)
        for frame in range(1, LENGTHS[name] + 1):
            want, got = (f[name].get(frame, mot_files.NO_BOXES) for f in (truth, results))
            distances = 1 - iou_matrix(want.boxes, got.boxes)
            distances[distances > 0.5] = np.nan
            accumulator.update(want.ids, got.ids, distances)
        pairs.append(accumulator)
    host = motmetrics.metrics.create()
    table = host.compute_many(pairs, metrics=["mota", "idf1"], generate_overall=True)
    ours = evaluate(truth, results, LENGTHS)
    assert 0.5 < ours["MOTA"] < 0.7
    assert ours["MOTA"] == pytest.approx(table.loc["OVERALL", "mota"], abs=1e-9)
    assert ours["IDF1"] == pytest.approx(table.loc["OVERALL", "idf1"], abs=1e-9)


def test_missing_results(truth):
    with pytest.raises(ValueError, match="results have no TUD-Campus, expected every sequence"):
        evaluate(truth, {"TUD-Stadtmitte": {}}, LENGTHS)


def test_each_sequence_alone(truth, results):
    each = evaluate_each(truth, results, LENGTHS)
    assert each.pop(TOGETHER) == evaluate(truth, results, LENGTHS)
    assert set(each) == set(LENGTHS)
    name = "TUD-Campus"
    alone = evaluate({name: truth[name]}, {name: results[name]}, LENGTHS)
    assert each[name] == pytest.approx(alone)

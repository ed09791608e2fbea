import io

import numpy as np
import pytest
from PIL import Image

from statescan.mm.reports.baselines import baselines
from statescan.mm.reports.picture import Answers, Curve, choose_examples, confusion, draw


def test_confusion_has_the_truth_in_rows():
    counts = confusion(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0]), 2)
    assert counts.tolist() == [[1, 1], [1, 2]]


def test_examples_come_from_every_kind_of_answer():
    labels, predicted = np.repeat([0, 0, 1, 1], 20), np.repeat([0, 1, 0, 1], 20)
    chosen = choose_examples(labels, predicted)
    assert len(set(chosen)) == 12
    assert np.bincount(labels[chosen] * 2 + predicted[chosen]).tolist() == [3, 3, 3, 3]
    assert np.array_equal(choose_examples(labels, predicted), chosen)


@pytest.mark.parametrize("images", [3, 40])
def test_draws_a_png(images):
    rng = np.random.default_rng(0)
    scores = rng.dirichlet([1, 1], images)
    history = [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.6, "roc_auc": 0.8}]
    grey = rng.integers(0, 256, (images, 8, 8), dtype=np.uint8)
    answers = Answers(scores, np.arange(images) % 2, grey, ("sound", "defective"))
    png = draw("A title", Curve(history, "roc_auc", {"chance": 0.5}), answers)
    assert Image.open(io.BytesIO(png)).size == (1600, 1000)


def test_baselines_know_chance_and_pixels():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(80) % 4 == 0).astype(np.int64)
    images = rng.integers(0, 50, (80, 6, 6)) + 100 * labels[:, None, None]
    halves = (images[:40], labels[:40]), (images[40:], labels[40:])
    found = baselines(*halves, ("roc_auc", "balanced_accuracy"))
    assert found["majority class"] == {"roc_auc": 0.5, "balanced_accuracy": 0.5}
    assert found["logistic regression"]["roc_auc"] == 1.0

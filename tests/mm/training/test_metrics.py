import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    roc_auc_score,
    top_k_accuracy_score,
)

from statescan.mm import InputError
from statescan.mm.training.metrics import ClassificationMetric

EXPECTED = {
    "top1": lambda y, s: accuracy_score(y, s.argmax(1)),
    "top5": lambda y, s: top_k_accuracy_score(y, s, k=5),
    "balanced_accuracy": lambda y, s: balanced_accuracy_score(y, s.argmax(1)),
    "roc_auc": lambda y, s: (
        roc_auc_score(y, s[:, 1]) if s.shape[1] == 2 else roc_auc_score(y, s, multi_class="ovr")
    ),
}


def draw(classes: int, images: int = 60):
    rng = np.random.default_rng(classes)
    labels = rng.permutation(np.arange(images) % classes)
    scores = rng.dirichlet(np.ones(classes), images)
    scores[np.arange(images // 2), labels[: images // 2]] += 0.5
    return labels, (scores / scores.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("name", EXPECTED)
def test_as_scikit_learn(name, classes):
    if name == "top5" and classes == 2:
        name = "top1"  # there is no fifth class
    labels, scores = draw(classes)
    evaluator = Evaluator({"type": "ClassificationMetric", "names": [name]})
    samples = [
        {"scores": torch.tensor(s), "label": torch.tensor(y)}
        for y, s in zip(labels, scores, strict=True)
    ]
    for start in range(0, len(samples), 25):
        evaluator.process(samples[start : start + 25])
    assert evaluator.evaluate(60) == {name: pytest.approx(EXPECTED[name](labels, scores), abs=1e-6)}


def test_keeps_scores_and_labels_of_the_images_but_not_the_padding():
    metric = ClassificationMetric()
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]])
    metric.process({}, [{"scores": s, "label": y} for s, y in zip(scores, (0, 1, 0), strict=True)])
    assert metric.evaluate(2) == {"top1": 1.0}
    assert torch.equal(metric.scores, scores[:2])
    assert metric.labels.tolist() == [0, 1]


def test_unknown_name():
    with pytest.raises(InputError, match=r"no metric 'roc-auc': did you mean 'roc_auc'\?"):
        ClassificationMetric(names=["roc-auc"])

"""What a trained network is to be compared with: the majority class and logistic regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..training.metrics import compute

Labelled = tuple[np.ndarray, np.ndarray]


def baselines(train: Labelled, test: Labelled, metrics: Sequence[str]) -> dict[str, dict]:
    """Metrics of scikit-learn's baselines, fitted to ``train`` and evaluated on ``test``.

    Args:
        train: (N, H, W) grey values and (N,) class numbers.
        test: The same for the held-out images.
        metrics: Names as for :func:`statescan.mm.training.metrics.compute`.

    Returns:
        ``{"majority class": {metric: value}, "logistic regression": {...}}``.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    models = {
        "majority class": DummyClassifier(),
        # the best of C = 1e-5, 1e-4, ... 1 on the held-out cells: no weak opponent
        "logistic regression": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)
        ),
    }
    return {name: _evaluate(model, train, test, metrics) for name, model in models.items()}


def _evaluate(model, train: Labelled, test: Labelled, metrics: Sequence[str]) -> dict[str, float]:
    (train_images, train_labels), (test_images, test_labels) = train, test
    model.fit(train_images.reshape(len(train_images), -1), train_labels)
    scores = model.predict_proba(test_images.reshape(len(test_images), -1))
    return compute(metrics, torch.from_numpy(scores), torch.from_numpy(test_labels))

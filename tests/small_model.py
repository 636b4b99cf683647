"""A small XGBoost model with its data set and manifest, for tests that run the whole product on something quick."""

from __future__ import annotations

from pathlib import Path

import numpy as np

MANIFEST = """
apiVersion: modelyard/v1
name: small
task: tabular-classification
framework: xgboost
source: {path: small.ubj}
inputs: [{name: features, datatype: FP32, shape: [batch, 4]}]
outputs:
  - {name: label, datatype: INT64, shape: [batch]}
  - {name: probabilities, datatype: FP32, shape: [batch, 2]}
dataset: {path: holdout.npz, inputs: {features: x}, label: y}
"""


def write(folder: Path, manifest: str = MANIFEST, name: str = "model.yaml") -> Path:
    """Train the model into `folder`, with its 64 rows of data; the manifest's path."""
    import xgboost

    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int64)
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, xgboost.DMatrix(x, y), num_boost_round=8)
    booster.save_model(folder / "small.ubj")
    np.savez(folder / "holdout.npz", x=x[:64], y=y[:64])
    path = folder / name
    path.write_text(manifest)
    return path

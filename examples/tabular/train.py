"""Train XGBoost on scikit-learn's breast-cancer data (569 rows, 30 numbers) and save it for `yard publish`.

Writes tumour.ubj (XGBoost's own format, no pickle) and holdout.npz (a quarter of the data) beside this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

HERE = Path(__file__).resolve().parent


def main() -> None:
    rows, labels = load_breast_cancer(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        rows.astype(np.float32), labels.astype(np.int64), test_size=0.25, stratify=labels, random_state=0
    )
    model = XGBClassifier(n_estimators=150, max_depth=3, learning_rate=0.1, random_state=0, n_jobs=2)
    model.fit(train_x, train_y)
    accuracy = float((model.predict(test_x) == test_y).mean())
    model.save_model(HERE / "tumour.ubj")
    np.savez(HERE / "holdout.npz", x=test_x, y=test_y)
    print(f"tumour.ubj: accuracy {accuracy:.4f} on the {len(test_y)} held-out rows of holdout.npz")


if __name__ == "__main__":
    main()

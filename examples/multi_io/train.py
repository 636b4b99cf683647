"""Train a scikit-learn pipeline with several inputs (one a text, one an integer) and save it for `yard publish`.

scikit-learn's diabetes data (442 patients, real): does the disease progress more than in the median patient? Writes
progression.skops (no pickle) and holdout.npz (a quarter of the data) beside this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skops.io
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

HERE = Path(__file__).resolve().parent
# Inputs of the model, in this order, as in the manifest: a text, an integer code and numbers.
COLUMNS = ("age_group", "sex", "bmi", "blood_pressure", "triglycerides")


def columns() -> tuple[dict[str, NDArray[np.generic]], NDArray[np.str_]]:
    """The columns by name, and the answer: `above` or `below` the median progression."""
    data = load_diabetes(scaled=False)
    age, sex, bmi, blood_pressure, *_, s5, _ = data.data.T
    groups = np.array(["under 40", "40 to 59", "60 and over"])
    values: dict[str, NDArray[np.generic]] = {
        "age_group": groups[np.digitize(age, [40, 60])],
        "sex": sex.astype(np.int64),
        "bmi": bmi.astype(np.float32),
        "blood_pressure": blood_pressure.astype(np.float32),
        "triglycerides": s5.astype(np.float32),
    }
    return values, np.where(data.target > np.median(data.target), "above", "below")


def main() -> None:
    values, answers = columns()
    train, test = train_test_split(np.arange(len(answers)), test_size=0.25, stratify=answers, random_state=0)
    # An array of objects keeps texts and numbers side by side without pandas.
    rows = np.array([values[name].astype(object) for name in COLUMNS], dtype=object).T
    prepare = ColumnTransformer(
        [
            ("categories", OneHotEncoder(handle_unknown="ignore"), [0]),
            ("code", OneHotEncoder(handle_unknown="ignore", categories=[np.array([1, 2])]), [1]),
            ("numbers", StandardScaler(), [2, 3, 4]),
        ]
    )
    model = make_pipeline(prepare, LogisticRegression(C=0.5, random_state=0))
    model.fit(rows[train], answers[train])
    accuracy = float((model.predict(rows[test]) == answers[test]).mean())
    skops.io.dump(model, HERE / "progression.skops")
    columns_of_test = {name: values[name][test].reshape(-1, 1) for name in COLUMNS}
    np.savez(HERE / "holdout.npz", **columns_of_test, progression=answers[test])
    print(f"progression.skops: accuracy {accuracy:.4f} on the {len(test)} held-out patients of holdout.npz")


if __name__ == "__main__":
    main()

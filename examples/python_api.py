"""From a model in memory to a live service, without YAML: python examples/python_api.py."""

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

import modelyard

x, y = load_breast_cancer(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x.astype("float32"), y, random_state=0)
model = RandomForestClassifier(50, random_state=0).fit(x_train, y_train)

with modelyard.open() as yard:
    held_out = modelyard.Dataset(x_test, y_test)
    version = yard.register_model(model, "tumours", dataset=held_out, task="tabular-classification").version
    published = yard.publish(version.ref, modelyard.PublishRequest(effort="quick"))
    print(published.choice.reason)
    print(yard.predict("tumours", {"features": x_test[:2]}))
    yard.stop("tumours")

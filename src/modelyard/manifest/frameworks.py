"""Frameworks a manifest may name: their formats, their packages, and whether the installed version fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from modelyard.domain.artifacts import (
    LIGHTGBM,
    ONNX,
    OPENVINO,
    PYTORCH_EAGER,
    PYTORCH_EXPORTED,
    SKLEARN,
    TORCHSCRIPT,
    XGBOOST,
)
from modelyard.domain.errors import InvalidInput, Unsupported
from modelyard.domain.versions import Definition
from modelyard.manifest.problems import nearest

FRAMEWORK_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        PYTORCH_EAGER: "pytorch",
        PYTORCH_EXPORTED: "pytorch",
        TORCHSCRIPT: "pytorch",
        ONNX: "onnx",
        OPENVINO: "openvino",
        SKLEARN: "sklearn",
        XGBOOST: "xgboost",
        LIGHTGBM: "lightgbm",
    }
)
"""The framework that writes each format. Any framework may stand behind the exchange formats."""

EXCHANGE_FORMATS: Final = frozenset({ONNX, OPENVINO})

_SPELLINGS = {"torch": "pytorch", "scikit-learn": "sklearn"}
_DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "pytorch": ("torch",),
    "sklearn": ("scikit-learn",),
    "xgboost": ("xgboost", "xgboost-cpu"),
    "lightgbm": ("lightgbm",),
    "onnx": ("onnx",),
    "openvino": ("openvino",),
}
_EXTRAS = {"pytorch": "torch", "xgboost": "sklearn", "lightgbm": "sklearn"}
_FRAMEWORK = re.compile(r"\s*([A-Za-z][A-Za-z0-9_-]*)\s*(.*)", re.DOTALL)


def framework_name(text: str) -> str:
    """The one name of a framework that has several spellings (`scikit-learn`: `sklearn`); any other as it is."""
    name = _SPELLINGS.get(text.lower(), text.lower())
    return name if name in _DISTRIBUTIONS else text


def parse_framework(text: str) -> tuple[str, str]:
    """Split `pytorch>=2.9,<3` into the framework's name and the version constraint. Raises InvalidInput."""
    match = _FRAMEWORK.fullmatch(text)
    if not match:
        raise InvalidInput(f"'{text}' is not a framework", hint="write e.g. pytorch or pytorch>=2.9,<3")
    name = framework_name(match[1]).lower()
    if name not in _DISTRIBUTIONS:
        raise InvalidInput(f"unknown framework '{match[1]}'{nearest(name, _DISTRIBUTIONS)}")
    constraint = match[2].strip()
    try:
        SpecifierSet(constraint)
    except InvalidSpecifier as error:
        raise InvalidInput(f"'{constraint}' is not a version constraint", hint=f"write e.g. {name}>=2.9,<3") from error
    return name, constraint


def check_framework(definition: Definition) -> None:
    """Check the installed framework against the definition's constraint, without importing it.

    Does nothing without a constraint. Raises Unsupported where the package is missing or its version does not fit.
    """
    if not definition.framework_constraint:
        return
    framework = definition.framework
    extra = _EXTRAS.get(framework, framework)
    wanted = SpecifierSet(definition.framework_constraint)
    for distribution in _DISTRIBUTIONS.get(framework, (framework,)):
        try:
            installed = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
        if wanted.contains(installed, prereleases=True):
            return
        raise Unsupported(
            f"{definition.name} needs {framework}{definition.framework_constraint}, but {installed} is installed",
            hint=f"pip install '{distribution}{definition.framework_constraint}', or relax 'framework' in the manifest",
        )
    raise Unsupported(
        f"{definition.name} needs {framework}{definition.framework_constraint}, which is not installed",
        hint=f"pip install 'modelyard[{extra}]'",
    )

"""What every runtime does around its framework's own load call: find the package, find the file, name the failure."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelyard.domain.artifacts import LocalArtifact, Precision
from modelyard.domain.errors import BackendFailed, InvalidInput, ModelyardError, Unsupported
from modelyard.domain.tensors import Datatype
from modelyard.runtimes.ports import Availability

_LONGEST_REASON = 400


def installed(module: str, distributions: tuple[str, ...], extra: str) -> Availability:
    """Availability of a framework, from package metadata only: nothing is imported."""
    if importlib.util.find_spec(module) is None:
        return Availability(
            False, reason=f"the package '{module}' is not installed", hint=f"pip install 'modelyard[{extra}]'"
        )
    for distribution in distributions:
        try:
            return Availability(True, version=importlib.metadata.version(distribution))
        except importlib.metadata.PackageNotFoundError:
            continue
    return Availability(True, version="unknown")


def require(runtime: str, availability: Availability) -> None:
    """Raise Unsupported unless the framework is there."""
    if not availability.available:
        raise Unsupported(f"runtime '{runtime}' is not available", why=availability.reason, hint=availability.hint)


def require_device(runtime: str, device: str, available: list[str]) -> None:
    """Raise Unsupported unless `device` is one of those the runtime sees."""
    if device not in available:
        raise Unsupported(
            f"runtime '{runtime}' has no device '{device}'", hint=f"available here: {', '.join(available)}"
        )


def require_precision(runtime: str, artifact: LocalArtifact, supported: tuple[Precision, ...]) -> None:
    """Raise Unsupported unless the runtime can be told to compute in the artifact's precision."""
    if artifact.precision not in supported:
        raise Unsupported(
            f"runtime '{runtime}' cannot compute in {artifact.precision}",
            hint=f"it does {', '.join(supported)}; convert the model to another target, e.g. openvino:bf16 for bf16",
        )


def require_no_strings(runtime: str, artifact: LocalArtifact) -> None:
    """Raise Unsupported if the signature has BYTES tensors, for frameworks whose tensors are numbers only."""
    for spec in (*artifact.signature.inputs, *artifact.signature.outputs):
        if spec.datatype is Datatype.BYTES:
            raise Unsupported(
                f"runtime '{runtime}' has no string tensors, and '{spec.name}' is BYTES",
                hint="encode strings in a preprocess step, or use onnx or scikit-learn",
            )


def entry_file(artifact: LocalArtifact) -> Path:
    """The artifact's main file. Raises InvalidInput if it is missing or outside the artifact's directory."""
    directory = Path(artifact.directory)
    path = directory / artifact.entry
    # Symbolic links inside the directory are fine (the hub's cache may use them); a path that climbs out is not.
    if Path(artifact.entry).is_absolute() or ".." in Path(artifact.entry).parts:
        raise InvalidInput(f"model file '{artifact.entry}' is not a path inside the artifact")
    if not path.is_file():
        raise InvalidInput(
            f"model file '{artifact.entry}' does not exist", why=f"looked in {directory}", hint="check the source path"
        )
    return path


def summary(error: BaseException) -> str:
    """The telling lines of a framework's error: no stack traces, no blank lines, bounded length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kept: list[str] = []
    for line in lines:
        if line.lower().startswith(("stack trace", "exception raised from", "traceback")):
            break
        kept.append(line)
    text = " ".join(kept) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


@contextmanager
def loading(runtime: str, artifact: LocalArtifact, hint: str) -> Iterator[None]:
    """Turn what a framework raises while it reads a model file into InvalidInput with the framework's own reason."""
    try:
        yield
    except ModelyardError:
        raise
    except MemoryError as error:
        raise BackendFailed(
            f"{runtime} ran out of memory while loading '{artifact.entry}'", hint="use a machine with more memory"
        ) from error
    except Exception as error:  # boundary to foreign code: any class may come out of a model loader
        raise InvalidInput(
            f"{runtime} cannot load '{artifact.entry}' as {artifact.target.format}", why=summary(error), hint=hint
        ) from error

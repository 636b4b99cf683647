"""What is searched for each model of the bench: an aim, and a space small enough to be measured whole."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.domain.study import Aim

SPACE = """
knobs:
  artifact: {{choice: [{artifacts}]}}
  threads: {{integer: [1, cores], log2: true}}
  replicas: {{integer: [1, cores], log2: true}}
  max_batch: {{integer: [1, 64], log2: true}}
  max_delay_us: {{integer: [0, 1000], log2: true, step: 1000, when: {{max_batch: [2, 4, 8, 16, 32, 64]}}}}
constraints:
  - replicas * threads <= cores
"""


@dataclass(frozen=True, slots=True)
class Task:
    """One model, one aim, the artifacts searched: the source first. `blocks` and `requests` of a search measurement."""

    model: str
    aim: Aim
    artifacts: tuple[str, ...]
    blocks: int = 4
    requests: int = 400
    duration_s: float | None = None

    @property
    def space(self) -> str:
        """The space's YAML text."""
        quoted = ", ".join(f'"{name}"' for name in self.artifacts)
        return SPACE.format(artifacts=quoted)


TASKS = (
    Task(
        "digits",
        Aim.parse("min cost under p99 <= 5 ms at 1000 rps"),
        ("pytorch-exported", "onnx", "onnx:optimized", "openvino"),
    ),
    Task(
        "gan-discriminator",
        Aim.parse("min p50 at 200 rps"),
        ("pytorch-eager", "onnx", "openvino", "openvino:bf16"),
        requests=300,
    ),
    Task(
        "resnet-cifar",
        Aim.parse("max throughput at 16 concurrent"),
        ("pytorch-eager", "onnx", "openvino", "openvino:bf16"),
        duration_s=0.6,
    ),
)


def task_of(model: str) -> Task:
    """The task of a model. Raises KeyError."""
    return next(t for t in TASKS if t.model == model)

"""What a TF Serving request asks for, checked against the model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from modelyard.domain.errors import InvalidInput
from modelyard.domain.tensors import Tensor
from modelyard.serving.oip.plan import InferHead, InputHead, Interface, OutputHead, Plan, make_plan, ordered

PREDICT: Final = "tensorflow/serving/predict"
CLASSIFY: Final = "tensorflow/serving/classify"
REGRESS: Final = "tensorflow/serving/regress"
DEFAULT_SIGNATURE: Final = "serving_default"


class TfsPlan(Plan):
    """A plan of this protocol: `by_row` says how JSON writes the outputs, `signature` which one was asked for."""

    __slots__ = ("by_row", "signature")

    def __init__(self, plan: Plan, signature: str, *, by_row: bool = False) -> None:
        for name in Plan.__slots__:
            setattr(self, name, getattr(plan, name))
        self.signature = signature
        self.by_row = by_row


def plan_of(
    interface: Interface,
    tensors: Mapping[str, Tensor],
    signature: str = "",
    *,
    wanted: Collection[str] = (),
    by_row: bool = False,
) -> tuple[TfsPlan, tuple[Tensor, ...]]:
    """Check named tensors; the plan, and the tensors in the signature's order. Raises InvalidInput."""
    check_signature(interface, signature)
    check_names(interface, tensors)
    specs = interface.signature.inputs
    head = InferHead(
        inputs=[InputHead(s.name, str(s.datatype), list(tensors[s.name].shape)) for s in specs],
        outputs=[OutputHead(name) for name in _known_outputs(interface, wanted)],
    )
    plan = TfsPlan(make_plan(interface, head), signature, by_row=by_row)
    return plan, ordered(plan, [tensors[s.name] for s in specs])


def check_signature(interface: Interface, signature: str) -> None:
    """A model has one signature. Raises InvalidInput for another name."""
    if signature not in ("", DEFAULT_SIGNATURE):
        raise InvalidInput(
            f'Serving signature key "{signature}" not found.',
            hint=f"model '{interface.name}' has the signature {DEFAULT_SIGNATURE}",
        )


def check_names(interface: Interface, given: Collection[str]) -> None:
    """The inputs must be those of the model. Raises InvalidInput with TF Serving's text."""
    needed = [spec.name for spec in interface.signature.inputs]
    extra = sorted(set(given) - set(needed))
    missing = [name for name in needed if name not in given]
    if extra or missing:
        raise InvalidInput(
            f"Request inputs do not match required inputs for model `{interface.name}`. "
            f"Send extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )


def _known_outputs(interface: Interface, wanted: Collection[str]) -> Sequence[str]:
    for name in wanted:
        if name not in interface.output_index:
            raise InvalidInput(
                f"output tensor alias not found in signature: {name}",
                hint=f"outputs are {', '.join(interface.output_index)}",
            )
    return list(dict.fromkeys(wanted))

"""What publish measures: the grid and its pruning."""

from __future__ import annotations

import dataclasses

from modelyard.domain.configuration import Slo
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.profile.curve import CurvePoint
from modelyard.workflow.planning import candidates, contenders, single, thread_choices, with_slo
from tests.builders import artifact, configuration


def curve(wall_ms: float, *, threads: int = 1, scaling: float = 1.0) -> list[CurvePoint]:
    """Latency wall_ms for batch 1, growing with the batch by `scaling` per row."""
    return [
        CurvePoint(b, threads, wall_ms / 1000 * (1 + scaling * (b - 1)), wall_ms / 1000 * (1 + scaling * (b - 1)), 10)
        for b in (1, 8, 32)
    ]


FAST, SLOW = artifact("fast"), artifact("slow")
BOTH = {"fast": FAST, "slow": SLOW}


def test_threads_are_powers_of_two_and_all_cores() -> None:
    assert thread_choices(1) == (1,)
    assert thread_choices(2) == (1, 2)
    assert thread_choices(6) == (1, 2, 4, 6)


def test_the_cheapest_comes_first_and_far_costlier_ones_are_dropped() -> None:
    ranked = candidates(
        {("fast", "onnxruntime"): curve(1.0), ("slow", "onnxruntime"): curve(50.0)}, BOTH, cores=2, slo=None
    )
    assert ranked[0].configuration.artifact == "fast"
    assert {c.artifact for c in contenders(ranked, 10)} == {"fast"}


def test_a_run_slower_than_the_slo_is_ruled_out() -> None:
    ranked = candidates({("slow", "r"): curve(50.0)}, BOTH, cores=2, slo=Slo(p99_ms=20, rate_rps=1))
    assert ranked == []


def test_replicas_are_as_few_as_carry_the_rate() -> None:
    light = candidates({("fast", "r"): curve(1.0)}, BOTH, cores=2, slo=Slo(p99_ms=20, rate_rps=100))
    heavy = candidates({("fast", "r"): curve(1.0)}, BOTH, cores=2, slo=Slo(p99_ms=20, rate_rps=1000))
    assert {c.configuration.replicas for c in light} == {1}
    assert {c.configuration.replicas for c in heavy} == {2}


def test_a_rate_that_all_cores_cannot_carry_is_ruled_out() -> None:
    assert candidates({("fast", "r"): curve(1.0)}, BOTH, cores=2, slo=Slo(p99_ms=20, rate_rps=100_000)) == []


def test_batching_is_planned_only_where_requests_can_be_joined() -> None:
    single = Signature((TensorSpec("x", Datatype.FP32, (3,)),), (TensorSpec("y", Datatype.FP32, (3,)),))
    unbatched = dataclasses.replace(FAST, signature=single)
    ranked = candidates({("fast", "r"): curve(1.0)[:1]}, {"fast": unbatched}, cores=2, slo=None)
    assert {c.configuration.batching.max_size for c in ranked} == {1}


def test_each_artifact_gets_a_place_before_anyones_second() -> None:
    curves = {("fast", "r"): curve(1.0, scaling=0.2), ("slow", "r"): curve(1.2, scaling=0.2)}
    chosen = contenders(candidates(curves, BOTH, cores=2, slo=None), 2)
    assert {c.artifact for c in chosen} == {"fast", "slow"}


def test_single_is_the_source_as_it_is() -> None:
    configuration = single(artifact("src", target="pytorch-exported"), "torch", 2)
    assert (configuration.threads, configuration.replicas, configuration.batching.max_size) == (2, 1, 1)


def test_the_slo_becomes_the_queues_target_and_changes_nothing_else() -> None:
    plain = configuration()
    kept = with_slo(plain, Slo(20, 200))
    assert kept.queue.slo_ms == 20
    assert dataclasses.replace(kept, queue=plain.queue) == plain
    assert with_slo(kept, None) == plain

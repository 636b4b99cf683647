"""`yard deploy`: start a service of a version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelyard.cli import arguments
from modelyard.cli.command import command
from modelyard.cli.session import Session

if TYPE_CHECKING:
    from modelyard.domain.services import Service
    from modelyard.workflow.values import DeployRequest


def deploy(
    session: Session,
    ref: Annotated[str, typer.Argument(metavar="REF", help="Which version: digits, digits:3, digits@production.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the service; default: the model's.")] = None,
    from_study: Annotated[
        str | None,
        typer.Option("--from-study", metavar="ID", help="The configuration that this study found best."),
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", metavar="N", help="With --from-study: the configuration of that trial.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="TARGET", help="Which artifact, e.g. onnx:int8-static.")
    ] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="What executes it, e.g. onnxruntime.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads per replica.")] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", min=1, help="Processes behind the one port.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Where to compute: cpu or gpu:0.")] = None,
    max_batch: Annotated[int | None, typer.Option("--max-batch", min=1, help="Dynamic batching up to; 1: off.")] = None,
    max_delay_us: Annotated[
        int | None, typer.Option("--max-delay-us", min=0, help="Longest wait for a batch to fill.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="Limit per replica, e.g. 2GiB.")
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option("--cpus", metavar="CORES", help="Cores each replica may use, e.g. 0.5."),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="HTTP port; 0: a free one.")] = 0,
    grpc_port: Annotated[int, typer.Option("--grpc-port", min=0, max=65535, help="gRPC port; 0: a free one.")] = 0,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    replace: Annotated[bool, typer.Option("--replace", help="Replace a running service of this name.")] = False,
    serving: Annotated[
        Path | None,
        typer.Option("--serving", metavar="FILE", help="YAML with more settings: TLS, queue, cache, traces."),
    ] = None,
    canary: Annotated[
        list[str] | None,
        typer.Option("--canary", metavar="REF=SHARE", help="Another version and its share: digits:4=0.1. Repeatable."),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option("--shadow", metavar="REF", help="Another version: gets copies, its answers are compared."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=REF", help="A version clients reach by this name. Repeatable."),
    ] = None,
) -> None:
    """Start a version as a service. What is not given is taken from the study, else from the version's last publish.

    Only the source and artifacts proven equal to it can be deployed. What --serving, --canary, --shadow and --label
    say holds for this deployment: --replace without them ends it.
    """
    from modelyard.cli import tables
    from modelyard.domain.artifacts import Target
    from modelyard.domain.configuration import Batching, check_cpu_limit
    from modelyard.domain.versions import ModelRef
    from modelyard.manifest.serving_file import load_serving
    from modelyard.workflow.values import DeployRequest

    arguments.ports(port, grpc_port)
    check_cpu_limit(cpus)
    batching = None
    if max_batch is not None or max_delay_us is not None:
        batching = Batching(max_batch or 1, max_delay_us or 0)
    request = DeployRequest(
        name=arguments.service_name(name),
        target=Target.parse(target) if target else None,
        runtime=runtime,
        device=device,
        threads=threads,
        replicas=replicas,
        batching=batching,
        memory_limit_bytes=arguments.size(memory, "--memory") if memory else None,
        cpu_limit=cpus,
        host=host,
        http_port=port,
        grpc_port=grpc_port,
        replace=replace,
        serving=load_serving(serving) if serving else None,
        canary=arguments.shares(canary or []),
        shadow=shadow,
        labels=arguments.labels(label or []),
        from_study=from_study,
        trial=trial,
    )
    cores = len(os.sched_getaffinity(0))
    if threads is not None and threads > cores:
        session.output.warn(f"{threads} threads on {cores} cores: they take turns, which costs latency")
    if cpus is not None and threads is not None and threads > max(1.0, cpus):
        session.output.warn(f"{threads} threads on {cpus:g} cores' time: what one waits for another is lost")
    with session.yard() as yard, session.listener() as listener:
        if replace:
            wanted = request.name or ModelRef.parse(ref).model
            for status in yard.services():
                if status.service.name == wanted:
                    _warn_of_ends(session, status.service, request)
        service = yard.deploy(ref, request, listener=listener)
    session.output.emit("service", service, lambda: tables.deployed(service))


def _warn_of_ends(session: Session, running: Service, request: DeployRequest) -> None:
    """A deployment is complete in itself: say what the running one has that this one does not name."""
    if running.serving.file and request.serving is None:
        session.output.warn(f"without --serving the settings of {running.serving.file} end")
    if running.others and not (request.canary or request.shadow or request.labels):
        others = ", ".join(f"{running.model}:{other.version}" for other in running.others)
        session.output.warn(f"without --canary, --shadow and --label {others} will be served no more")


def add(app: typer.Typer) -> None:
    command(app, "deploy")(deploy)

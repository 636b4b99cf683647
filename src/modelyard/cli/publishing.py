"""`yard publish`: the whole way from a manifest to a live, proven, profiled service."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from modelyard.cli import arguments
from modelyard.cli.command import command
from modelyard.cli.exits import OK, REJECTED
from modelyard.cli.session import Session


def publish(
    session: Session,
    what: Annotated[str, typer.Argument(metavar="MANIFEST|REF", help="A model.yaml, or a version such as digits:3.")],
    slo: Annotated[
        str | None, typer.Option("--slo", metavar="TEXT", help="Overrides the manifest: 'p99 <= 20 ms at 200 rps'.")
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="TARGETS", help="Overrides the manifest's `convert`: onnx,openvino; repeatable."),
    ] = None,
    effort: Annotated[
        Literal["quick", "normal", "thorough"], typer.Option("--effort", help="Samples per measurement, contenders.")
    ] = "normal",
    deploy: Annotated[bool, typer.Option("--deploy/--no-deploy", help="Start the chosen configuration.")] = True,
    name: Annotated[str | None, typer.Option("--name", help="Name of the service; default: the model's.")] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="HTTP port; 0: a free one.")] = 0,
    grpc_port: Annotated[int, typer.Option("--grpc-port", min=0, max=65535, help="gRPC port; 0: a free one.")] = 0,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Also write the report to this file.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Allow formats that run code on load (pickle, joblib), in a child process.")
    ] = False,
) -> int:
    """Register, convert, prove, profile, choose, deploy and call a model, in one go.

    What was done before is reused. Exit code 4 if no configuration met the SLO.
    """
    from modelyard.domain.configuration import Slo
    from modelyard.workflow.values import PublishRequest

    arguments.ports(port, grpc_port)
    source = arguments.manifest_or_ref(what)
    request = PublishRequest(
        slo=Slo.parse(slo) if slo else None,
        targets=arguments.words(to) if to else (),
        effort=effort,
        deploy=deploy,
        name=arguments.service_name(name),
        host=host,
        http_port=port,
        grpc_port=grpc_port,
        html=html,
    )
    with session.yard() as yard, session.listener() as listener:
        publication = yard.publish(source, request, trust=trust, listener=listener)
    from modelyard.cli import render

    session.output.emit(
        "publication", publication, lambda: render.publication(publication, currency=session.settings().price_currency)
    )
    return REJECTED if publication.choice.met is False else OK


def add(app: typer.Typer) -> None:
    command(app, "publish", kept="what was registered, converted and measured is kept")(publish)

"""From a version and a configuration to a running service that has answered a real request."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

from modelyard.convert import plan_targets
from modelyard.dispatch import Engine, Limits
from modelyard.dispatch.engines.network import reserve, resolve
from modelyard.domain.artifacts import Artifact, Standing, Target
from modelyard.domain.configuration import Batching, Configuration
from modelyard.domain.errors import Conflict, InvalidInput, NotFound, Rejected
from modelyard.domain.placement import apart
from modelyard.domain.services import (
    Endpoint,
    Release,
    ReplicaSpec,
    ReplicaState,
    ServedModel,
    Service,
    ServiceState,
    Serving,
)
from modelyard.domain.tensors import Datatype, Tensor, Tensors
from modelyard.domain.versions import ModelRef, Version, check_name
from modelyard.hub import Hub
from modelyard.serving.models.source import troubles
from modelyard.workflow.calling import client_at, client_of, traffic
from modelyard.workflow.classes import class_names
from modelyard.workflow.planning import single, with_slo
from modelyard.workflow.progress import Listener, Progress, Step
from modelyard.workflow.proof import Proof
from modelyard.workflow.releases import Releases
from modelyard.workflow.rows import Rows
from modelyard.workflow.studied import studied
from modelyard.workflow.values import DeployRequest, ServiceStatus


@dataclass(frozen=True)
class Deployer:
    """Starts, lists and stops services. Safe to use from several processes; the engine and the hub arbitrate."""

    hub: Hub
    engine: Engine
    proof: Proof
    rows: Rows
    now: Callable[[], str]

    @property
    def releases(self) -> Releases:
        """What reads the further versions of a request."""
        return Releases(self.hub, self.rows)

    def deploy(self, ref: str, request: DeployRequest, listener: Listener) -> Service:
        """Deploy a version as the request says. Raises NotFound, Conflict, Rejected, Unsupported, BackendFailed."""
        version = self.hub.versions.get(ModelRef.parse(ref))
        configuration = self.configure(version, request)
        return self.start(version, configuration, request, listener)

    def configure(self, version: Version, request: DeployRequest) -> Configuration:
        """The configuration a request means: a study's, the published choice or the naive one, with its changes.

        Where neither has a latency target for the queue, the version's SLO is it.
        """
        base = studied(self.hub, version, request) if request.from_study else self.chosen(version)
        if base is None or (request.target and request.target != base.target):
            base = self._default(version, request)
        runtime = request.runtime or base.runtime
        self.proof.check(self.hub.artifacts.get(base.artifact), runtime)
        if base.queue.slo_ms is None:
            base = with_slo(base, version.definition.slo)
        model = (request.serving or Serving()).model
        return replace(
            base,
            runtime=runtime,
            device=request.device or base.device,
            threads=request.threads or base.threads,
            replicas=request.replicas or base.replicas,
            batching=request.batching or model.batching.over(base.batching),
            queue=model.queue.over(base.queue),
            memory_limit_bytes=request.memory_limit_bytes or base.memory_limit_bytes,
            cpu_limit=request.cpu_limit or base.cpu_limit,
        )

    def chosen(self, version: Version) -> Configuration | None:
        """The configuration that the last successful publish of this version chose, if its artifact is servable."""
        for decision in reversed(self.hub.decisions.list(ModelRef(version.model, version.number))):
            if decision.chosen is None or decision.met is False:
                continue
            with contextlib.suppress(NotFound):
                configuration = self.hub.measurements.get(decision.chosen).configuration
                if self.hub.artifacts.get(configuration.artifact).standing.servable:
                    return configuration
        return None

    def _default(self, version: Version, request: DeployRequest) -> Configuration:
        artifact = self.artifact(version, request)
        cores = max(1, (os.cpu_count() or 1) // (request.replicas or 1))  # oversubscribed cores halve the throughput
        if request.cpu_limit is not None:  # threads beyond the cap would wait for each other
            cores = min(cores, ceil(request.cpu_limit))
        base = single(artifact, self.proof.runtime(artifact), cores)
        return replace(base, batching=Batching(8 if artifact.signature.batched else 1))

    def artifact(self, version: Version, request: DeployRequest) -> Artifact:
        """The artifact a request names, else the source. Raises NotFound, Rejected."""
        every = self.hub.artifacts.list(ModelRef(version.model, version.number))
        if request.target is None:
            return next(a for a in every if a.standing is Standing.SOURCE)
        found = [a for a in every if a.target == request.target]
        if not found:
            check_target(version, request.target)
            known = ", ".join(sorted({str(a.target) for a in every}))
            raise NotFound(
                f"{version.ref} has no artifact {request.target}",
                why=f"it has {known}",
                hint=f"yard convert {version.ref} --to {request.target}",
            )
        servable = [a for a in found if a.standing.servable]
        if not servable:
            raise Rejected(
                f"{request.target} of {version.ref} is not servable",
                why=f"it is {found[-1].standing}, not proven equal to its source",
                hint=f"yard models show {version.ref}",
            )
        return servable[-1]

    def start(
        self, version: Version, configuration: Configuration, request: DeployRequest, listener: Listener
    ) -> Service:
        """Start (or, with `request.replace`, roll) the service and record it once it has answered."""
        name = request.name or version.model
        running = self.check(version, request)
        policy, beside = self.releases.resolve(version, request)
        others = tuple(Release(v.number, self._beside(v, configuration, request)) for v in beside)
        serving = request.serving or Serving()
        if running is None and serving.replica.unix_socket:
            for index in range(1, configuration.replicas):  # each replica has one, the first at the path itself
                self._check_socket(f"{serving.replica.unix_socket}.{index}")
        listener(Progress(Step.DEPLOY, f"starting {name}: {configuration.label}"))
        spec = self.spec(version, configuration, name, request)
        spec = replace(spec, models=(*spec.models, *self._models(beside, others, serving)))
        spec = replace(spec, policies={version.model: policy} if beside or policy.labels else {})
        probe = self.probe((version, *beside), serving)
        if running is not None:
            listener(Progress(Step.DEPLOY, f"replacing {running.model}:{running.version} without a gap"))
            self.engine.roll(name, spec, configuration.replicas, probe)
            if running.serving.file and request.serving is None:
                listener(Progress(Step.DEPLOY, f"without --serving: the settings of {running.serving.file} end"))
            endpoint, created_at = running.endpoint, running.created_at
        else:
            endpoint, created_at = self.engine.start(name, spec, configuration.replicas, probe), self.now()
        service = Service(
            name=name,
            model=version.model,
            version=version.number,
            configuration=configuration,
            endpoint=endpoint,
            directory=str(self.engine.directory(name)),
            created_at=created_at,
            others=others,
            policy=policy,
            serving=serving,
        )
        try:
            self.hub.services.put(service)
        except BaseException:
            if running is None:
                self.engine.stop(name)
            raise
        listener(Progress(Step.DEPLOY, f"{name} answers at {endpoint.url}", 1.0))
        return service

    def _beside(self, version: Version, main: Configuration, request: DeployRequest) -> Configuration:
        """What a further version runs by: its own published choice, else the main version's knobs on its source.

        Queue and limits belong to the service, so they are the main version's.
        """
        own = self.chosen(version)
        if own is None:
            own = self._default(version, DeployRequest())
            batching = main.batching if self.hub.artifacts.get(own.artifact).signature.batched else Batching()
            own = replace(own, threads=main.threads, batching=batching)
        self.proof.check(self.hub.artifacts.get(own.artifact), own.runtime)
        model = (request.serving or Serving()).model
        return replace(
            own,
            device=main.device,
            threads=request.threads or own.threads,
            replicas=main.replicas,
            batching=request.batching or model.batching.over(own.batching),
            queue=main.queue,
            memory_limit_bytes=main.memory_limit_bytes,
            cpu_limit=main.cpu_limit,
        )

    def _models(
        self, versions: Sequence[Version], releases: Sequence[Release], serving: Serving
    ) -> Iterator[ServedModel]:
        for version, release in zip(versions, releases, strict=True):
            yield self.served(version, release.configuration, serving)

    def check(self, version: Version, request: DeployRequest, *, same_model: bool = False) -> Service | None:
        """The running service that the request would replace; None if there is none.

        Raises Conflict where it may not be replaced (`same_model`: only by a version of its own model), or cannot move
        to another port, or a wanted port is taken; InvalidInput for a host that is not this machine's, or a repository
        with models that cannot be served.
        """
        name = check_name(request.name or version.model, "service")
        if request.http_port and request.http_port == request.grpc_port:
            raise InvalidInput(
                f"HTTP and gRPC cannot share port {request.http_port}", hint="give two, or 0 for free ones"
            )
        settings = (request.serving or Serving()).replica
        if settings.repository and settings.exit_on_error:
            _check_repository(settings.repository, version.model)
        running = self._running(name)
        if running is None:
            for port in (request.http_port, request.grpc_port):
                reserve(resolve(request.host), port).close()  # early; the engine holds it for good later
            self._check_socket(settings.unix_socket)
            return None
        if not request.replace or (same_model and running.model != version.model):
            raise Conflict(
                f"service {name} is already running {running.model}:{running.version} at {running.endpoint.url}",
                hint=f"choose another --name, yard services stop {name}, or yard deploy {version.ref} --replace",
            )
        kept = running.endpoint
        moved = [
            p for p, q in ((request.http_port, kept.http_port), (request.grpc_port, kept.grpc_port)) if p and p != q
        ]
        if moved:
            raise Conflict(
                f"service {name} runs at {kept.url} and cannot move to port {moved[0]} while it is replaced",
                hint=f"leave out the port, or yard services stop {name} first",
            )
        if kept.tls != (settings.tls is not None):
            now, then = ("with", "without") if kept.tls else ("without", "with")
            raise Conflict(
                f"service {name} runs {now} TLS and cannot go on {then} it while it is replaced",
                why="old and new replicas share the port for a while, and its clients speak one or the other",
                hint=f"give --serving with{'' if kept.tls else 'out'} replica.tls, or yard services stop {name} first",
            )
        if settings.unix_socket != running.serving.replica.unix_socket:
            self._check_socket(settings.unix_socket)
        return running

    def _check_socket(self, path: str | None) -> None:
        """Raise Conflict where somebody listens at a Unix socket's path, or what stands there is none."""
        if path is None or not os.path.lexists(path):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:  # its server is gone: the replica removes it, if it is a socket at all
                if stat.S_ISSOCK(os.lstat(path).st_mode):
                    return
                why = "a file that is no socket stands there"
            except OSError as error:
                why = str(error.strerror)
            else:
                why = "another process does"
        raise Conflict(f"cannot listen on {path}", why=why, hint="choose another replica.unix_socket")

    def settings_kept(self, name: str) -> Serving | None:
        """What a publish keeps of the service it replaces: how its replicas meet clients, not how its model runs."""
        running = self._running(check_name(name, "service"))
        return running.serving.of_replica() if running and running.serving.file else None

    def _running(self, name: str) -> Service | None:
        """The service of that name if it still runs; a record whose processes are gone is forgotten."""
        try:
            status = self.status(name)
        except NotFound:
            return None
        if status.state in (ServiceState.STOPPED, ServiceState.FAILED):
            self.stop(name)
            return None
        return status.service

    @contextlib.contextmanager
    def temporary(self, version: Version, configuration: Configuration, name: str) -> Iterator[Endpoint]:
        """A service for a measurement: gone on exit, and gone with this process should it die.

        It leaves the load client's core to the client where its threads fit the others.
        """
        spec = self.spec(version, configuration, version.model, DeployRequest())
        probe = self.probe((version,), Serving())
        threads = configuration.replicas * configuration.threads
        limits = Limits(cores=apart(sorted(os.sched_getaffinity(0)), threads)[0])
        endpoint = self.engine.start(name, spec, configuration.replicas, probe, limits=limits, owner_pid=os.getpid())
        try:
            yield endpoint
        finally:
            self.engine.stop(name)

    def spec(self, version: Version, configuration: Configuration, name: str, request: DeployRequest) -> ReplicaSpec:
        """What a replica of this configuration is told. Checks out (and verifies) the artifact's files."""
        serving = request.serving or Serving()
        replica = serving.replica
        return ReplicaSpec(
            service=name,
            models=(self.served(version, configuration, serving),),
            host=request.host,
            http_port=request.http_port,
            grpc_port=request.grpc_port,
            reuse_port=True,
            memory_limit_bytes=configuration.memory_limit_bytes,
            cpu_limit=configuration.cpu_limit,
            drain_timeout_s=replica.drain_timeout_s,
            max_body_bytes=replica.max_body_bytes,
            unix_socket=replica.unix_socket,
            tls=replica.tls,
            repository=replica.repository,
            exit_on_error=replica.exit_on_error,
            tracing=replica.tracing,
            triton_metrics=replica.triton_metrics,
            max_running=replica.max_running,
            shared_memory=replica.shared_memory,
            grpc_front=replica.grpc_front,
        )

    def served(self, version: Version, configuration: Configuration, serving: Serving) -> ServedModel:
        """One version as its replicas run it."""
        artifact = self.hub.artifacts.get(configuration.artifact)
        self.proof.check(artifact, configuration.runtime)
        definition, settings = version.definition, serving.model
        steps = (*definition.preprocess, *definition.postprocess)
        return ServedModel(
            name=version.model,
            version=version.number,
            artifact=self.hub.artifacts.checkout(artifact),
            runtime=configuration.runtime,
            device=configuration.device,
            threads=configuration.threads,
            batching=configuration.batching,
            queue=configuration.queue,
            preprocess=definition.preprocess,
            postprocess=definition.postprocess,
            steps_directory=str(self.hub.versions.checkout(version)) if steps else "",
            instances=settings.instances,
            isolation=settings.isolation,
            weight=settings.weight,
            cache_bytes=settings.cache_bytes,
            coalesce=settings.coalesce,
            classes=settings.classes or class_names(definition),
            memory_limit_bytes=settings.memory_limit_bytes,
        )

    def probe(self, versions: Sequence[Version], serving: Serving) -> Callable[[Endpoint], None]:
        """A real inference through the endpoint, by every version: one row of the version's data."""
        samples = [(v, self.rows.sample(v), self.rows.outer_signature(v).sent_as) for v in versions]

        def infer(endpoint: Endpoint) -> None:
            with client_at(endpoint, serving.replica) as client:
                for version, sample, datatypes in samples:
                    number = version.number if len(samples) > 1 else None
                    client.infer(version.model, sample, version=number, datatypes=datatypes)

        return infer

    def predict(self, name: str, tensors: Tensors) -> dict[str, Tensor]:
        """Answer of a running service. Raises NotFound, Unavailable, InvalidInput."""
        service = self.hub.services.get(name)
        with client_of(service) as client:
            taken = client.metadata(service.model).inputs
            datatypes = {t.name: t.datatype for t in taken if t.datatype == Datatype.BF16 and t.name in tensors}
            return client.infer(service.model, tensors, datatypes=datatypes).outputs

    def status(self, name: str) -> ServiceStatus:
        """A service as the hub has it and as its processes are now. Raises NotFound."""
        service = self.hub.services.get(name)
        try:
            seen = self.engine.status(name)
        except NotFound:
            gone = "its processes and its directory are gone; yard services stop forgets it"
            return ServiceStatus(service, ServiceState.STOPPED, (), gone)
        return ServiceStatus(service, seen.state, seen.replicas, seen.detail, limits=seen.limits)

    def show(self, name: str) -> ServiceStatus:
        """As `status`, with what each version did and how a shadow compares, summed over the replicas."""
        found = self.status(name)
        pids = [r.pid for r in found.replicas if r.pid and r.state is ReplicaState.READY]
        return replace(found, traffic=traffic(found.service, pids)) if pids else found

    def list(self) -> list[ServiceStatus]:
        """Every service the hub knows."""
        return [self.status(service.name) for service in self.hub.services.list()]

    def stop(self, name: str) -> None:
        """Drain and stop a service and forget it; nothing of it is left running. Raises NotFound."""
        self.hub.services.get(name)
        self.engine.stop(name)
        self.hub.services.remove(name)

    def collect(self, *, dry_run: bool) -> None:
        """Clear what crashed services left, and forget them."""
        known = {service.name for service in self.hub.services.list()}
        for name in self.engine.gc(dry_run=dry_run):
            if name in known and not dry_run:
                self.hub.services.remove(name)

    def logs(self, name: str, *, replica: int | None, follow: bool, tail: int) -> Iterator[str]:
        """Lines of a service's logs, oldest first. Raises NotFound."""
        self.hub.services.get(name)
        return self.engine.logs(name, replica=replica, follow=follow, tail=tail)


def check_target(version: Version, target: Target) -> None:
    """Raise InvalidInput, naming the possible ones, where no conversion leads from the version's source to `target`."""
    definition = version.definition
    plan_targets(definition.source.format, definition.framework, (str(target),), has_data=True)


def _check_repository(directory: str, besides: str) -> None:
    """Raise InvalidInput early where models of a repository cannot be served, `besides` a model of the service."""
    found = troubles(directory, besides)
    if found:
        raise InvalidInput(
            f"{len(found)} model{'s' if len(found) > 1 else ''} of {directory} cannot be served",
            why="\n".join(f"{error} ({error.hint})" if error.hint else str(error) for error in found),
            hint="correct their files, or set replica.exit_on_error: false in the serving file to serve the others",
        )

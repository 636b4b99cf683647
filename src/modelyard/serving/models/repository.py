"""The versions of all models of a replica: load, warm up, switch, drain, unload, while others are served.

A change is prepared beside what serves. It is taken over in one turn of the event loop, so that every request sees
either the old or the new set of versions; versions that leave finish what they hold and are freed. What fails to load
changes nothing that serves, and a change with a failure takes nothing away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from modelyard.domain.errors import BackendFailed, Conflict, InvalidInput, ModelyardError, NotFound, Unavailable
from modelyard.domain.services import ServedModel, VersionPolicy
from modelyard.serving.faults import for_clients, text_of
from modelyard.serving.models import policy as policies
from modelyard.serving.models import source
from modelyard.serving.models.aside import AsidePool
from modelyard.serving.models.change import Change, Ready, Wish, with_labels
from modelyard.serving.models.loaders import Loaders
from modelyard.serving.models.loading import Loaded
from modelyard.serving.models.retirement import Retirement, free
from modelyard.serving.models.routing import Routing
from modelyard.serving.models.source import Found
from modelyard.serving.models.states import ModelState, Stage, Version
from modelyard.serving.oip.plan import unknown_model
from modelyard.serving.scheduling.executor import Executor

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Model:
    """One model: what there is of it, what is wanted of it, and its versions."""

    def __init__(self, name: str, policy: VersionPolicy, idle: Callable[[], bool], pool: AsidePool) -> None:
        self.name = name
        self.found = Found()
        self.policy = policy
        """As last accepted; `routing.policy` is what is in force."""
        self.written: VersionPolicy | None = None
        """The policy that the repository directory had when it was last followed."""
        self.extra: set[int] = set()
        """Versions that a caller asked for one by one."""
        self.wanted = True
        """False once unloaded by a caller: re-reading the repository does not bring the model back."""
        self.versions: dict[int, Version] = {}
        self.routing = Routing(name, self.versions, idle, pool)
        self.lock = asyncio.Lock()


class Repository:
    """All models. Create and use it in the event loop's thread only.

    `load` (blocking) runs in threads of its own; `make` turns what it gives into an executor, in the loop's thread.
    """

    def __init__(
        self,
        models: tuple[ServedModel, ...],
        policies: Mapping[str, VersionPolicy],
        directory: str | None,
        load: Callable[[ServedModel], Loaded],
        make: Callable[[Loaded], Executor],
        pool: AsidePool,
        drain_timeout_s: float,
        *,
        exit_on_error: bool = True,
    ) -> None:
        self._exit_on_error = exit_on_error
        self.models: dict[str, Model] = {}
        self.directory = directory
        self._listed = source.listed(models)
        self._policies = dict(policies)
        self._make = make
        self._pool = pool
        self._loaders = Loaders(load)
        self._retirement = Retirement(pool, self._loaders.threads, drain_timeout_s)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._scanning = asyncio.Lock()
        for name, found in self._listed.items():
            self._known(name).found = found

    # --- what there is

    @property
    def executors(self) -> list[Executor]:
        """The executors of all versions that take requests."""
        return [e for model in self.models.values() for e in model.routing.serving.values()]

    @property
    def retiring(self) -> frozenset[Executor]:
        """Executors that take no new requests and still hold some."""
        return frozenset(self._retirement.retiring)

    def idle(self) -> bool:
        """Whether no request waits or runs anywhere."""
        return all(e.idle for e in (*self.executors, *self.retiring))

    def model(self, name: str) -> Model:
        """A model that is known. Raises NotFound with Triton's text."""
        found = self.models.get(name)
        if found is None:
            raise unknown_model(name)
        return found

    def states(self, name: str) -> list[ModelState]:
        """The states of all known versions of a model, oldest first. Raises NotFound."""
        model = self.model(name)
        known = {n: v.state for n, v in model.versions.items()}
        for number in (*model.found.versions, *model.found.invalid):
            if number not in known:
                known[number] = self._untried(model, number)
        return [known[number] for number in sorted(known)]

    @staticmethod
    def _untried(model: Model, number: int) -> ModelState:
        version = Version(model.name, number)
        version.stage = Stage.END
        if error := model.found.invalid.get(number):
            version.failed(error)
        return version.state

    # --- changes

    async def start(self) -> None:
        """Load all that is wanted, in parallel; a model of which at least one version loads is served with that.

        Raises InvalidInput or BackendFailed that names every model which cannot be served at all (one alone: its own
        error). Without `exit_on_error` only those that the spec lists count; others are logged and can be loaded later.
        """
        if self.directory is not None:
            try:
                await self._rescan()
            except ModelyardError as unread:
                raise _of_start_up(unread) from None
        self._check_policies({n: p for n, p in self._policies.items() if n not in self.models})
        models = list(self.models.values())
        results = await asyncio.gather(*(self._start_model(m) for m in models), return_exceptions=True)
        fatal: list[ModelyardError] = []
        for model, error in zip(models, results, strict=True):
            if isinstance(error, ModelyardError) and model.routing.serving:
                _log.error("%s; the other versions are served", _of_start_up(error))
            elif isinstance(error, ModelyardError) and (self._exit_on_error or model.name in self._listed):
                fatal.append(_of_start_up(error))
            elif isinstance(error, ModelyardError):
                _log.error("%s; the other models are served", text_of(_of_start_up(error)))
            elif error is not None:
                raise error
        if fatal:
            raise _together(fatal)

    async def _start_model(self, model: Model) -> None:
        found = model.found
        model.written = found.policy
        model.policy = found.policy or model.policy
        try:
            if found.policy_error is not None:
                raise found.policy_error
            self._check_policies({model.name: model.policy})
        except ModelyardError as error:
            for number in found.numbers:
                model.versions.setdefault(number, Version(model.name, number)).failed(error)
            raise
        await self._from_source(model)

    async def reread(self) -> None:
        """Read the repository directory again and follow it. Raises the first error; the rest is followed."""
        await self._settled(self._reread())

    async def _reread(self) -> None:
        await self._rescan()
        models = [m for m in self.models.values() if m.wanted]
        results = await asyncio.gather(*(self._follow(m) for m in models), return_exceptions=True)
        errors = [error for error in results if isinstance(error, BaseException)]
        for error in errors[1:]:
            _log.error("re-reading the model repository: %s", error)
        if errors:
            raise errors[0]

    async def _follow(self, model: Model) -> None:
        """First the policy, if another one is written (all of it or nothing); then the versions, by what holds then."""
        wrong: ModelyardError | None = model.found.policy_error
        if wrong is None and model.found.policy != model.written:
            policy = model.found.policy or self._policy(model.name)
            try:
                self._check_policies({model.name: policy})
                await self._follow_policies({model: policy})
                model.written = model.found.policy
            except ModelyardError as error:
                wrong = error
        await self._from_source(model)
        if wrong is not None:
            raise wrong

    async def load(self, name: str, versions: tuple[int, ...] | None, override: dict[str, Any] | None) -> None:
        """Load a model by its policy, or these of its versions beside what serves; load again what has changed.

        `override` holds for this load: see `source.OVERRIDABLE`. Returns when all of it serves. Raises NotFound,
        InvalidInput, Unavailable, or what loading raised (what served before goes on).
        """
        await self._settled(self._load_model(name, versions, override or {}))

    async def _load_model(self, name: str, versions: tuple[int, ...] | None, override: dict[str, Any]) -> None:
        if self.directory is not None:
            await self._rescan()
        model = self.models.get(name)
        if model is None or not (model.found.versions or model.found.invalid):
            raise NotFound(f"failed to load '{name}', failed to poll from model repository")
        for number in versions or ():
            if number not in model.found.versions and number not in model.found.invalid:
                raise NotFound(f"failed to load '{name}', version {number} is not in the model repository")
        await self._from_source(model, asked=True, extra=set(versions or ()), override=override)

    async def unload(self, name: str) -> None:
        """Take a model out of service; what it holds is finished in the background. Raises NotFound."""
        await self._settled(self._unload(name))

    async def _unload(self, name: str) -> None:
        model = self.models.get(name)
        if model is None:
            raise NotFound(f"failed to unload '{name}', the model is unknown")
        async with model.lock:
            model.wanted = False
            model.extra.clear()
            for number in list(model.routing.serving):
                self._retire_version(model.versions[number])
            model.routing.refresh(model.routing.policy)

    async def apply_policies(self, policies: Mapping[str, VersionPolicy], *, exclusive: bool = False) -> None:
        """Follow other policies, all or none: if one is wrong or a version does not load, nothing changes.

        With `exclusive` models that are not named are unloaded. Raises NotFound, InvalidInput, Conflict, Unavailable,
        or what loading raised.
        """
        await self._settled(self._apply(dict(policies), exclusive))

    async def _apply(self, given: dict[str, VersionPolicy], exclusive: bool) -> None:
        if self.directory is not None:
            await self._rescan()
        self._check_policies(given)
        await self._follow_policies({self.models[name]: given[name] for name in sorted(given)})
        if exclusive:
            for name in [n for n in self.models if n not in given]:
                await self._unload(name)

    async def _follow_policies(self, given: Mapping[Model, VersionPolicy]) -> None:
        """All of them, or none where a version does not load."""
        async with contextlib.AsyncExitStack() as locks:
            for model in given:
                await locks.enter_async_context(model.lock)
            changes = [self._change(model, self._wish(model, policy, set())) for model, policy in given.items()]
            await self._prepared(changes)
            broken = next((c for c in changes if c.failed), None)
            if broken is not None:
                error = broken.failure()
                await self._drop(changes, error)
                raise error
            for (model, policy), change in zip(given.items(), changes, strict=True):
                model.policy, model.extra, model.wanted = policy, set(), True
                self._take_over(model, change)

    def set_labels(self, name: str, labels: Mapping[str, int]) -> None:
        """Replace a model's labels. Raises NotFound, and Conflict for a version that does not serve."""
        model = self.model(name)
        for label, number in labels.items():
            if not label:
                raise InvalidInput(f"a label of model '{name}' is empty")
            if number not in model.routing.serving:
                raise Conflict(
                    f"Request to assign label to version {number} of model {name}, "
                    "which is not currently available for inference"
                )
        model.policy = with_labels(model.policy, labels)
        model.routing.refresh(with_labels(model.routing.policy, labels))

    def disable(self, name: str, version: int, reason: ModelyardError) -> None:
        """Take a version that broke for good out of service; requests that do not name it go to others."""
        model = self.model(name)
        broken = model.versions.get(version)
        if broken is None or broken.executor is None:
            return
        self._retire_version(broken)
        broken.error = for_clients(reason)
        broken.reason = str(broken.error)
        model.routing.refresh(model.routing.policy)

    def refuse_changes(self) -> None:
        """From now on no change begins."""
        self._closing = True

    async def close(self) -> None:
        """Leave changes where they are; no more begin."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._loaders.threads.shutdown()

    # --- sources

    async def _rescan(self) -> None:
        if self.directory is None:
            return
        loop = asyncio.get_running_loop()
        async with self._scanning:  # else what an earlier scan saw could replace what a later one saw
            try:
                found = await loop.run_in_executor(self._loaders.threads, source.scan, self.directory)
            except ModelyardError as error:
                _log.error("%s", error)
                raise for_clients(error) from error
            self._found(found)

    def _found(self, found: Mapping[str, Found]) -> None:
        for name in {*found, *self.models}:
            spec, files = self._listed.get(name, Found()), found.get(name, Found())
            model = self._known(name)
            model.found = replace(files, versions={**spec.versions, **files.versions})
            for number, version in list(model.versions.items()):
                if version.stage is Stage.END and number not in model.found.numbers:
                    del model.versions[number]  # gone from its source and from here

    def _known(self, name: str) -> Model:
        model = self.models.get(name)
        if model is None:
            model = self.models[name] = Model(name, self._policy(name), self.idle, self._pool)
        return model

    def _policy(self, name: str) -> VersionPolicy:
        """The policy of a model for which the repository has none."""
        return self._policies.get(name, policies.ALL if name in self._listed else policies.LATEST)

    def _check_policies(self, given: Mapping[str, VersionPolicy]) -> None:
        for name, policy in given.items():
            policies.check(name, policy, self.model(name).found.numbers)

    def _wish(
        self,
        model: Model,
        policy: VersionPolicy,
        extra: set[int],
        override: dict[str, Any] | None = None,
        *,
        exactly: bool = False,
    ) -> Wish:
        found = model.found
        numbers = policies.wanted(policy, found.numbers, extra)
        chosen = {n: found.versions[n] for n in numbers if n in found.versions}
        effective = {n: source.overridden(s, override) if override else s for n, s in chosen.items()}
        invalid = {n: found.invalid[n] for n in numbers if n in found.invalid}
        return Wish(policy, effective, chosen, invalid, exactly)

    async def _from_source(
        self,
        model: Model,
        *,
        asked: bool = False,
        extra: set[int] | None = None,
        override: dict[str, Any] | None = None,
    ) -> None:
        """Follow what the sources say now. Versions are independent: those that load serve, whatever others do.

        `asked`: a caller wants this model, who may have unloaded it before, just so.
        """
        async with model.lock:
            if not model.wanted and not asked:
                return
            extra = model.extra | (extra or set())
            wish = self._wish(model, model.policy, extra, override, exactly=asked)
            change = self._change(model, wish)
            await self._prepared([change])
            model.wanted, model.extra = True, extra
            self._take_over(model, change)
            if change.failed:
                raise change.failure()

    # --- the steps of a change

    def _change(self, model: Model, wish: Wish) -> Change:
        return Change(model.name, model.versions, wish, self._loaded, self._loaders.fingerprint)

    async def _prepared(self, changes: list[Change]) -> None:
        """Load what the changes need, and check them. Raises Conflict; then it was all in vain."""
        await asyncio.gather(*(change.prepare() for change in changes))
        try:
            for change in changes:
                change.check()
        except ModelyardError as error:
            await self._drop(changes, error)
            raise

    async def _loaded(self, served: ServedModel) -> Ready:
        def started() -> None:
            version = self.models[served.name].versions[served.version]
            if version.stage is Stage.START:
                version.stage = Stage.LOADING

        return await self._loaders.load(served, started)

    async def _drop(self, changes: Iterable[Change], error: ModelyardError) -> None:
        """Free what was loaded in vain."""
        for change in changes:
            for number, ready in change.ready.items():
                await free(self._loaders.threads, ready.loaded.model.close)
                self.models[change.name].versions[number].failed(error)

    def _take_over(self, model: Model, change: Change) -> None:
        """Switch, in one turn of the loop: every request sees either the old or the new set of versions."""
        for number, ready in sorted(change.ready.items()):
            self._serve(model.versions[number], change.wish, ready)
        if not change.failed:
            for number in [n for n in model.routing.serving if n not in change.wish.versions]:
                self._retire_version(model.versions[number])
        model.routing.refresh(change.wish.policy)

    def _serve(self, version: Version, wish: Wish, ready: Ready) -> None:
        previous, loaded = version.executor, ready.loaded
        executor = version.executor = self._make(loaded)
        version.source = wish.source[version.number]
        version.served, version.fingerprint, version.load_s = loaded.served, ready.fingerprint, loaded.load_s
        version.stage, version.reason, version.error = Stage.AVAILABLE, "", None
        version.unavailable = loaded.unavailable
        if previous is not None:
            executor.ledger = previous.ledger  # a version's counters never go back
            self._retire(previous, None)
        _log.info("loaded %s:%d by %s in %.3f s", version.model, version.number, loaded.served.runtime, loaded.load_s)

    def _retire_version(self, version: Version) -> None:
        executor, version.executor = version.executor, None
        version.stage, version.reason, version.error = Stage.UNLOADING, "", None
        if executor is not None:
            self._retire(executor, version)

    def _retire(self, executor: Executor, version: Version | None) -> None:
        self._retirement.retiring.add(executor)
        self._spawn(self._retirement.retire(executor, version))

    # --- tasks

    async def _settled(self, change: Coroutine[Any, Any, _T]) -> _T:
        """Run a change to its end even if whoever asked for it leaves."""
        if self._closing:
            change.close()
            raise Unavailable("the replica is shutting down")
        return await asyncio.shield(self._spawn(change))

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)
        return task


def _of_start_up(error: ModelyardError) -> ModelyardError:
    """What the model itself said: at start-up nobody asked in Triton's words. Versions in conflict are a wrong spec."""
    if isinstance(error, Conflict):
        return InvalidInput(error.what, why=error.why, hint=error.hint)
    return error.__cause__ if isinstance(error.__cause__, ModelyardError) else error


def _together(errors: list[ModelyardError]) -> ModelyardError:
    """One error that tells all; a wrong input only where all of them are."""
    if len(errors) == 1:
        return errors[0]
    kind = InvalidInput if all(isinstance(error, InvalidInput | NotFound) for error in errors) else BackendFailed
    return kind(f"{len(errors)} models cannot be served", why="; ".join(text_of(error) for error in errors))

"""The client for asyncio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TypeVar

from modelyard.client import calls
from modelyard.client.address import Address
from modelyard.client.async_connections import AsyncPool
from modelyard.client.calls import Call
from modelyard.client.inference import Inference, InferResult
from modelyard.client.messages import ModelMetadata, ModelStatistics, RepositoryModel, ServerMetadata
from modelyard.client.options import Timing, Tls, TransportOptions
from modelyard.client.retries import RetryPolicy
from modelyard.client.rules import CallRules
from modelyard.domain.errors import Unavailable
from modelyard.domain.tensors import Tensors

T = TypeVar("T")


class AsyncClient:
    """`Client` with `await`: the same calls, options and errors, on the event loop that makes the first call.

    Tasks of that loop share its connections and its retry budget; for another loop make another client. A cancelled
    call closes its connection. Close it, or use it with `async with`. Any event loop (uvloop too).
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        transport: TransportOptions | None = None,
        retries: RetryPolicy | None = None,
        timing: Timing | None = None,
    ) -> None:
        """`url`: `http://host:port`, `https://...`, `http://[::1]:8000`, `unix:///path`; a path before `/v2` is kept.

        `timeout_s`: of a whole call, retries included, where the call gives none. `headers`: sent with every call.
        Raises InvalidInput.
        """
        address, options = Address.parse(url), transport or TransportOptions()
        self.url = url
        self._rules = CallRules(address, timeout_s, headers, options, retries, timing)
        context = (tls or Tls()).context() if address.tls else None
        self._pool = AsyncPool(address, options, context, self._rules.clock)

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        *,
        version: int | str | None = None,
        label: str | None = None,
        outputs: Sequence[str] | None = None,
        binary: bool = True,
        timeout_s: float | None = None,
        priority: int | None = None,
        request_id: str = "",
        classify: int | None = None,
        datatypes: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> InferResult:
        """Send tensors to a model; its outputs by name (`BYTES` as object arrays of bytes, `BF16` as float32).

        `version` or `label` (of Modelyard's servers); else the service chooses. `outputs`: which, by default all.
        `binary`: False for JSON. `timeout_s` is the deadline of the whole call; the service is told it, so that it
        does not compute what nobody waits for. `priority`: 1 is the highest (Triton's parameter). `classify`: the top
        k classes of the named outputs, see `InferResult.classes`. `datatypes`: `{"x": "BF16"}` sends floats as BF16.
        Raises InvalidInput for what the model does not take.
        """
        asked = Inference(
            inputs=inputs,
            outputs=outputs,
            binary=binary,
            priority=priority,
            request_id=request_id,
            classify=classify,
            datatypes=datatypes,
        )
        return await self._call(calls.infer(model, version, label, asked, headers), timeout_s)

    async def metadata(
        self, model: str, *, version: int | str | None = None, timeout_s: float | None = None
    ) -> ModelMetadata:
        """What a model takes and gives; its `signature` is the same in Modelyard's terms."""
        return await self._call(calls.metadata(model, version), timeout_s)

    async def server_metadata(self, *, timeout_s: float | None = None) -> ServerMetadata:
        """Name, version and protocol extensions of the service."""
        return await self._call(calls.server_metadata(), timeout_s)

    async def live(self, *, timeout_s: float | None = None) -> bool:
        """Whether the service runs. Asked once; raises Unavailable where nobody answers."""
        return await self._call(calls.probe("/v2/health/live"), timeout_s)

    async def ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the service takes requests. Asked once; raises Unavailable where nobody answers."""
        return await self._call(calls.probe("/v2/health/ready"), timeout_s)

    async def model_ready(
        self, model: str, *, version: int | str | None = None, timeout_s: float | None = None
    ) -> bool:
        """Whether a model takes requests; False for an unknown one. Asked once."""
        return await self._call(calls.model_ready(model, version), timeout_s)

    async def statistics(
        self, model: str | None = None, *, version: int | str | None = None, timeout_s: float | None = None
    ) -> tuple[ModelStatistics, ...]:
        """Statistics of one model (all its versions, or one), or of all models."""
        return await self._call(calls.statistics(model, version), timeout_s)

    async def models(self, *, ready_only: bool = False, timeout_s: float | None = None) -> tuple[RepositoryModel, ...]:
        """The models in the service's repository."""
        return await self._call(calls.repository_index(ready_only=ready_only), timeout_s)

    async def load(
        self, model: str, *, parameters: Mapping[str, str | int | bool] | None = None, timeout_s: float | None = None
    ) -> None:
        """Load a model, or load it anew. `parameters` as Triton's: `{"config": "..."}`."""
        await self._call(calls.load(model, parameters), timeout_s)

    async def unload(self, model: str, *, dependents: bool = False, timeout_s: float | None = None) -> None:
        """Unload a model."""
        await self._call(calls.unload(model, dependents=dependents), timeout_s)

    async def close(self) -> None:
        """Close idle connections now, and those in use when their call ends."""
        await self._pool.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, call: Call[T], timeout_s: float | None) -> T:
        rules = self._rules
        left = whole = rules.timeout(timeout_s)
        deadline = rules.clock() + left
        attempt = 1
        while True:
            try:
                answer = call.read(await self._pool.exchange(rules.write(call, left), deadline))
            except Unavailable as error:
                delay = rules.delay(call, error, attempt, deadline)
                if delay is None:
                    raise rules.overdue(error, whole, attempt, deadline) from error.__cause__
            else:
                rules.budget.earn()
                return answer
            await rules.timing.pause(delay)
            attempt += 1
            left = deadline - rules.clock()

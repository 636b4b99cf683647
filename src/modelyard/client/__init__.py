"""Call a running service: numpy in and out, over the Open Inference Protocol, blocking or with asyncio.

    from modelyard.client import Client

    with Client("http://127.0.0.1:8000") as client:
        scores = client.infer("digits", {"image": images})["logits"]

Imports the standard library, numpy and msgspec, and no framework.
"""

from modelyard.client.asynchronous import AsyncClient
from modelyard.client.blocking import Client
from modelyard.client.failures import Refused, Unreached
from modelyard.client.inference import Classification, InferResult
from modelyard.client.messages import ModelMetadata, ModelStatistics, RepositoryModel, ServerMetadata
from modelyard.client.options import Timing, Tls, TransportOptions
from modelyard.client.retries import NO_RETRIES, RetryPolicy

__all__ = [
    "NO_RETRIES",
    "AsyncClient",
    "Classification",
    "Client",
    "InferResult",
    "ModelMetadata",
    "ModelStatistics",
    "Refused",
    "RepositoryModel",
    "RetryPolicy",
    "ServerMetadata",
    "Timing",
    "Tls",
    "TransportOptions",
    "Unreached",
]

"""A request a person can send by hand: the curl line for one sample."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from modelyard.domain.services import Service
from modelyard.domain.tensors import Datatype, Tensors

LONGEST_LINE = 2000
"""Above this many characters the body goes into a file and the line names it."""


def request_body(tensors: Tensors) -> str:
    """The Open Inference Protocol JSON body of a request."""
    inputs: list[dict[str, Any]] = []
    for name, tensor in tensors.items():
        datatype = Datatype.of(tensor.dtype)
        data = [v.decode() if isinstance(v, bytes) else v for v in tensor.ravel().tolist()]
        inputs.append({"name": name, "datatype": str(datatype), "shape": list(tensor.shape), "data": data})
    return json.dumps({"inputs": inputs}, separators=(",", ":"))


def curl_line(service: Service, sample: Tensors, directory: Path) -> str | None:
    """A curl command that works as it stands; None where JSON cannot carry the sample (bytes that are no text)."""
    url = f"{service.endpoint.url}/v2/models/{service.model}/infer"
    try:
        body = request_body(sample)
    except UnicodeDecodeError:
        return None
    # a certificate names the host that clients use, seldom the address of this line
    curl = "curl -sk" if service.endpoint.tls else "curl -s"
    if len(body) <= LONGEST_LINE:
        return f"{curl} {url} -d {shlex.quote(body)}"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{service.name}.json"
    path.write_text(body)
    return f"{curl} {url} -d @{shlex.quote(str(path))}"

"""The process of one instance: loads the model, runs what its replica sends, ends with it.

Single-threaded. Whatever the model does here (dies, hangs, takes all memory it may have, prints) stays here.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import traceback
from array import array
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from modelyard.domain.errors import BackendFailed, ModelyardError, Unsupported
from modelyard.domain.tensors import Signature, Tensor
from modelyard.runtimes.loading import summary
from modelyard.runtimes.ports import Predictor, Runtime, RuntimeOptions
from modelyard.serving.instances.arena import Arena
from modelyard.serving.instances.exchange import Reader, Writer
from modelyard.serving.instances.frames import (
    ANSWER,
    ARENA,
    FAILURE,
    GROW,
    HEAD,
    LARGEST,
    READY,
    RUN,
    ChildSpec,
    Description,
    failure,
)
from modelyard.serving.oip import wire

_PR_SET_PDEATHSIG: Final = 1


def main(descriptor: int) -> int:
    """Serve the replica at the other end of the socket until it closes it. Returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends these to the whole group; the replica drains
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=ChildSpec)
    if not _die_with(spec.parent):
        return 1
    with socket.socket(fileno=descriptor) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        try:
            predictor = _load(spec)
            ready = READY + msgspec.json.encode(Description(predictor.signature, dict(predictor.settings)))
        except ModelyardError as error:
            link.send(FAILURE + failure(error))
            return 1
        except Exception as error:  # noqa: BLE001 - boundary to foreign code: a loader may raise anything
            traceback.print_exc()
            link.send(FAILURE + failure(BackendFailed("the model could not be loaded", why=summary(error))))
            return 1
        gc.freeze()
        link.send(ready)
        try:
            Host(link, predictor).serve()
        except (BrokenPipeError, ConnectionResetError):
            return 0  # the replica went away while we computed
    return 0


def _die_with(parent: int) -> bool:
    """Have the kernel kill this process when the replica's thread that started it ends; False: it has already."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def _load(spec: ChildSpec) -> Predictor:
    module, _, attribute = spec.runtime.partition(":")
    try:
        runtime: Runtime = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise Unsupported(
            f"runtime '{spec.runtime}' cannot be made in a process of its own",
            why=summary(error),
            hint="set isolation: thread, or make it a class of an importable module that takes no arguments",
        ) from error
    return runtime.load(spec.artifact, RuntimeOptions(device=spec.device, threads=spec.threads))


class Host:
    """Answers the replica's messages by a predictor."""

    def __init__(self, link: socket.socket, predictor: Predictor) -> None:
        signature: Signature = predictor.signature
        self._link = link
        self._predictor = predictor
        self._inputs = tuple(spec.name for spec in signature.inputs)
        self._outputs = tuple(spec.name for spec in signature.outputs)
        self._reader = Reader(signature.inputs)
        self._writer = Writer(signature.outputs)
        self._arenas: dict[int, Arena] = {}
        self._packet = bytearray(LARGEST)  # a new buffer of this size per message would be mapped and unmapped

    def serve(self) -> None:
        """Until the replica closes its end."""
        link, packet = self._link, self._packet
        while size := link.recv_into(packet):
            kind, first, second = HEAD.unpack_from(packet)
            if kind == RUN:
                link.send(self._answer(bytes(packet[HEAD.size : size]), first, second))
            elif kind == ARENA:
                self._take_arena(first, second)

    def _answer(self, body: bytes, given: int, wanted: int) -> bytes:
        try:
            tensors = self._reader.views(body, self._arenas[given])
            results = self._predictor.predict(dict(zip(self._inputs, tensors, strict=True)))
            return self._write(self._ordered(results), wanted)
        except ModelyardError as error:
            return FAILURE + failure(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a model throws ends here
            traceback.print_exc()
            problem = BackendFailed("the model failed", why=f"{type(error).__name__}: {summary(error)}")
            return FAILURE + failure(problem)

    def _ordered(self, results: Mapping[str, Tensor]) -> list[Tensor]:
        outputs: list[Tensor] = []
        for name in self._outputs:
            output = results.get(name)
            if output is None:
                raise BackendFailed(f"the model returned no output '{name}'")
            outputs.append(output if _plain(output) else wire.normalised(output))
        return outputs

    def _write(self, outputs: Sequence[Tensor], number: int) -> bytes:
        body = self._writer.write(outputs, self._arenas[number])
        while body is None:
            self._link.send(HEAD.pack(GROW, self._writer.needed, number))
            _, larger, old = HEAD.unpack_from(self._link.recv(LARGEST))
            self._take_arena(larger, old)
            number = larger
            body = self._writer.write(outputs, self._arenas[number])
        if len(body) > LARGEST - HEAD.size:
            raise BackendFailed("the model has more outputs than a message between processes can name")
        return HEAD.pack(ANSWER, 0, number) + body

    def _take_arena(self, number: int, old: int) -> None:
        descriptors = array("i")
        _, ancillary, _, _ = self._link.recvmsg(16, socket.CMSG_SPACE(descriptors.itemsize))
        descriptors.frombytes(ancillary[0][2][: descriptors.itemsize])
        if self._arenas.pop(old, None) is not None:
            self._reader.forget()
            self._writer.forget()
        self._arenas[number] = Arena.of(number, descriptors[0])
        self._arenas[number].forget_descriptor()


def _plain(output: object) -> bool:
    return type(output) is np.ndarray and output.dtype.kind not in "OSU" and output.dtype.isnative

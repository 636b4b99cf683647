"""A process that writes to a hub until it is killed. Run by test_hub_crash.py.

`python hub_writer.py <directory> <database url> <blobs url>`. For each seed read from stdin it forks a child, prints
the child's pid, and waits for it to end. The child registers, converts, aliases, measures and deletes at random;
before each operation it appends what it is about to do to `intents`, after it what was acknowledged to `acks`.
Those files outlive kill -9 because a written page belongs to the kernel.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

from modelyard.domain.artifacts import LocalArtifact, Precision, Standing, Target
from modelyard.domain.errors import Conflict, NotFound
from modelyard.domain.tensors import Datatype, Signature, TensorSpec
from modelyard.domain.versions import Definition, Description, ModelRef, SourceSpec, Version
from modelyard.hub import Hub

SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, ("batch", 2)),), (TensorSpec("y", Datatype.FP32, ("batch",)),))
BLOB_BYTES = 200_000


class Writer:
    def __init__(self, hub: Hub, directory: Path, seed: int) -> None:
        self.hub = hub
        self.directory = directory
        self.draw = random.Random(seed)
        self.seed = seed
        self.versions: list[Version] = []

    def run(self) -> None:
        self.note("acks", {"do": "ready"})
        while True:
            self.draw.choice([self.register, self.register, self.add, self.add, self.alias, self.delete])()

    def register(self) -> None:
        name = f"model-{self.draw.randrange(3)}"
        content = self.draw.randbytes(BLOB_BYTES)
        files = {"model.pt2": self.file(f"{self.seed}.pt2", content), "shared.npz": self.file("shared", b"shared")}
        definition = Definition(name, "pytorch", SourceSpec("pytorch-exported", "model.pt2"), SIGNATURE)
        self.note("intents", {"do": "register"})
        made = self.hub.versions.register(definition, Description(tags=("crash",)), files, ["model.pt2"])
        self.note("acks", {"do": "register", "ref": made.version.ref, "content": content[:16].hex()})
        self.versions.append(made.version)

    def add(self) -> None:
        if not self.versions:
            return
        version = self.draw.choice(self.versions)
        folder = self.directory / "out" / f"{self.seed}-{self.draw.randrange(10**9)}"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(self.draw.randbytes(BLOB_BYTES))
        local = LocalArtifact(str(folder), "model.onnx", Target("onnx"), Precision.FP32, SIGNATURE)
        self.note("intents", {"do": "add"})
        made = self.hub.artifacts.add(version, local, version.source_artifact, None, Standing.PROVEN)
        self.note("acks", {"do": "add", "ref": version.ref, "artifact": made.id})

    def alias(self) -> None:
        if not self.versions:
            return
        version = self.draw.choice(self.versions)
        self.note("intents", {"do": "alias", "model": version.model, "number": version.number})
        self.hub.aliases.set(version.model, "production", version.number)
        self.note("acks", {"do": "alias", "model": version.model, "number": version.number})

    def delete(self) -> None:
        if len(self.versions) < 2:
            return
        version = self.versions.pop(self.draw.randrange(len(self.versions)))
        self.note("intents", {"do": "delete", "ref": version.ref})
        try:
            self.hub.versions.delete(ModelRef(version.model, version=version.number))
        except (Conflict, NotFound):  # it is the one that `production` names
            self.note("acks", {"do": "refused", "ref": version.ref})
        else:
            self.note("acks", {"do": "delete", "ref": version.ref})

    def file(self, name: str, content: bytes) -> Path:
        path = self.directory / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def note(self, log: str, entry: dict[str, object]) -> None:
        with (self.directory / log).open("ab", buffering=0) as file:
            file.write(json.dumps(entry | {"seed": self.seed}).encode() + b"\n")


def main() -> None:
    directory, database_url, blobs_url = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            hub = Hub.open(database_url, blobs_url, directory / "cache")
            Writer(hub, directory, int(line)).run()
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(status, flush=True)


if __name__ == "__main__":
    main()

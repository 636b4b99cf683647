"""Trees of processes and their memory, against children that are really there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psutil
import pytest

from modelyard import processes
from modelyard.processes import process_tree, resident_bytes, tasks

GRANDPARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input()"], stdin=subprocess.PIPE)
input()
child.communicate(b"\\n")
"""


@pytest.mark.parametrize("kernel_lists_children", [True, False])
def test_a_tree_has_children_and_theirs_and_none_of_another(
    monkeypatch: pytest.MonkeyPatch, kernel_lists_children: bool
) -> None:
    monkeypatch.setattr(processes, "_lists_children", lambda: kernel_lists_children)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", GRANDPARENT], **pipes) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        (grandchild,) = psutil.Process(child.pid).children()
        assert sorted(process_tree(child.pid)) == sorted([child.pid, grandchild.pid])
        assert {child.pid, grandchild.pid} < set(process_tree(os.getpid()))
        child.communicate(b"\n")
    assert process_tree(child.pid) == [child.pid]


def test_memory_and_threads_are_those_of_the_kernel_and_nothing_once_it_is_gone() -> None:
    held = bytearray(64 * 2**20)
    assert resident_bytes(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    assert resident_bytes(os.getpid()) > len(held)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert thread.native_id in tasks(os.getpid())
    stop.set()
    thread.join()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    assert (resident_bytes(gone.pid), tasks(gone.pid)) == (0, [])

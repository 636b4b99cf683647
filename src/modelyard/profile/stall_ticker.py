"""A process that notes when a core stood still: `python stall_ticker.py FILE PERIOD_S LATE_S CORE ...`.

On each core a thread of real-time priority, above the load client's, sleeps until the next tick. Whatever makes it late
(a hypervisor that runs someone else, the kernel's own work) held up everything else on that core as well. Appends
(began, ended) on the monotonic clock to FILE, two doubles each; ends with its standard input. Standard library only:
it is up in 20 ms.
"""

import os
import struct
import sys
import threading
import time


def watch(core: int, file: int, period_s: float, late_s: float) -> None:
    """Tick on one core for ever."""
    os.sched_setaffinity(0, {core})
    due = time.monotonic()
    while True:
        due += period_s
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        if now - due > late_s:
            os.write(file, struct.pack("<dd", due, now))
            due = now


def main() -> int:
    """Start the threads, wait for the end of the input. 3: no right to real-time priority."""
    path, period, late, *cores = sys.argv[1:]
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(2))
    except PermissionError:
        return 3
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for core in cores:
        task = (int(core), file, float(period), float(late))
        threading.Thread(target=watch, args=task, daemon=True).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())

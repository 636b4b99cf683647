"""A thread beside the event loop that looks at what runs: the loop cannot, while a model holds it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

_log = logging.getLogger(__name__)

TICK_S: Final = 0.05


class Watchdog:
    """Calls checks every 50 ms from a thread of its own, for as long as there are any. Thread-safe."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        self._tick_s = tick_s
        self._checks: tuple[Callable[[], None], ...] = ()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._woken = threading.Event()

    def watch(self, check: Callable[[], None]) -> None:
        """Call `check` at every tick from now on."""
        with self._lock:
            self._checks = (*self._checks, check)
            if self._thread is None:
                self._woken.clear()
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()

    def forget(self, check: Callable[[], None]) -> None:
        """Call `check` no more."""
        with self._lock:
            self._checks = tuple(c for c in self._checks if c != check)
            if not self._checks:
                self._woken.set()

    def _run(self) -> None:
        while True:
            self._woken.wait(self._tick_s)
            with self._lock:
                checks = self._checks
                if not checks:
                    self._thread = None
                    return
                self._woken.clear()
            for check in checks:
                try:
                    check()
                except Exception:  # noqa: BLE001 - one check must not end the others'
                    _log.exception("a check failed")

"""The garbage collector of a replica's process: what lives long is kept out of its sight.

A model brings its framework: some hundred thousand objects, which a full collection looks at one by one while every
request waits (xgboost with what it imports: 90 ms, once in some ten thousand requests). Process-wide; any thread.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """What has been loaded lives long: collect once, and never look at what is left again."""
    gc.collect()
    gc.freeze()


def keep() -> None:
    """As `settle`, beside requests: without the pause of a collection. Does nothing before the first `settle`."""
    if gc.get_freeze_count():
        gc.freeze()


def release() -> None:
    """A model has gone: collect what it left in cycles, which takes a pause. Nothing before the first `settle`."""
    if gc.get_freeze_count():
        gc.unfreeze()
        settle()

"""The garbage collector of a replica's process: what its models brought is kept out of its sight.

A model brings its framework: some hundred thousand objects, which a full collection looks at one by one while every
request waits (docs/adr/0054). Process-wide; any thread.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """What has been loaded lives long: collect once, and never look at what is left again."""
    gc.collect()
    gc.freeze()


def release() -> None:
    """A model has gone: what it left in cycles may be collected; all that was settled is looked at again with it."""
    gc.unfreeze()

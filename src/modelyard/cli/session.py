"""What every command gets: the common options, its output, and the facade when it asks for it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from modelyard.cli.output import Output

if TYPE_CHECKING:
    from modelyard.bootstrap import Yard
    from modelyard.config import Settings
    from modelyard.workflow.progress import Listener

OpenYard: TypeAlias = "Callable[[Settings], Yard]"


@dataclass
class Session:
    """One run of `yard`. `open_yard` is how the facade is made: the real one, or a test's."""

    argv: tuple[str, ...] = ()
    open_yard: OpenYard | None = None
    home: Path | None = None
    debug: bool = False
    output: Output = field(default_factory=Output)

    def settings(self) -> Settings:
        """The settings, with `--home` above the environment. Raises InvalidInput."""
        from modelyard.config import Settings

        return Settings.read(home=self.home)

    @contextmanager
    def yard(self) -> Iterator[Yard]:
        """The open facade; closed when the block ends."""
        settings = self.settings()
        self._warn_of_unknown_variables()
        settings.prepare()
        if self.open_yard is None:
            from modelyard.bootstrap import Yard

            opened = Yard.open(settings)
        else:
            opened = self.open_yard(settings)
        try:
            yield opened
        finally:
            opened.close()

    def _warn_of_unknown_variables(self) -> None:
        from modelyard.config import unknown_variables

        for name, nearest in unknown_variables().items():
            meant = f"did you mean {nearest}?" if nearest else "see docs/settings.md"
            self.output.warn(f"{name} is no setting; {meant}")

    def listener(self) -> AbstractContextManager[Listener]:
        """Progress on stderr while the block runs, with `--json` in plain lines; silent with `--quiet`."""
        from modelyard.cli.progress import listening

        return listening(self.output.err, shown=not self.output.quiet, plain=self.output.json)

    @property
    def command_line(self) -> str:
        """What the user typed, to type again."""
        return shlex.join(("yard", *self.argv))

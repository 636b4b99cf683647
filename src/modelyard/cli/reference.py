"""The reference part of docs/cli.md, written from the commands themselves: `python -m modelyard.cli.reference FILE`."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer.main

from modelyard.cli import exits
from modelyard.cli.app import build
from modelyard.cli.command import COMMON

BEGIN: Final = "<!-- reference: written by `make docs`, do not edit -->"
END: Final = "<!-- end of reference -->"


def markdown() -> str:
    """Common options, exit codes and every command with its arguments and options, as Markdown."""
    commands = dict(walk())
    common = [p for p in commands["version"].params if getattr(p, "rich_help_panel", None) == COMMON]
    parts = [
        "## Common options\n",
        "Every command has them.\n",
        _options(common),
        "## Exit codes\n",
        _codes(),
        "## Commands\n",
    ]
    for name, found in commands.items():
        own = [p for p in found.params if p not in common and getattr(p, "rich_help_panel", None) != COMMON]
        parts += [
            f"### yard {name}\n",
            f"    yard {name} {_usage(own)}".rstrip() + "\n",
            f"{found.help}\n",
            _options(own),
        ]
    return "\n".join(part for part in parts if part)


def walk() -> Iterator[tuple[str, Any]]:
    """Every command as (`models ls`, its click command), in the order of the help."""

    def below(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, found in group.commands.items():
            if hasattr(found, "commands"):
                yield from below(found, f"{prefix}{name} ")
            else:
                yield f"{prefix}{name}", found

    yield from below(typer.main.get_command(build()), "")


def _usage(params: list[Any]) -> str:
    arguments = [p.metavar or p.name.upper() for p in params if p.param_type_name == "argument"]
    return " ".join([*arguments, "[OPTIONS]"] if len(arguments) < len(params) else arguments)


def _options(params: list[Any]) -> str:
    rows = [f"| `{_name(p)}` | {_text(p.help or '')} | {_default(p)} |" for p in params]
    return "\n".join(["| argument or option | what | default |", "|---|---|---|", *rows, ""]) if rows else ""


def _name(param: Any) -> str:
    if param.param_type_name == "argument":
        return _text(str(param.metavar or param.name.upper()))
    names = ", ".join([*param.opts, *param.secondary_opts])
    return names if param.is_flag else f"{names} {_text(param.metavar) if param.metavar else _choices(param)}"


def _choices(param: Any) -> str:
    choices = param.type_descriptor.choices
    kind = param.type_descriptor.annotation
    if choices:
        return r"\|".join(str(getattr(c, "value", c)) for c in choices)
    return {int: "N", float: "X"}.get(kind, "TEXT")


def _text(text: str) -> str:
    return text.replace("|", r"\|")


def _default(param: Any) -> str:
    default = param.default
    if param.required:
        return "required"
    if default is None or default in ("", (), []):
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"`{default.value if isinstance(default, enum.Enum) else default}`"


def _codes() -> str:
    by_code: dict[int, list[str]] = {}
    for kind, code in exits.BY_ERROR.items():
        by_code.setdefault(code, []).append(f"`{kind.__name__}`")
    rows = [
        f"| {code} | {_text(meaning)} | {', '.join(by_code.get(code, []))} |" for code, meaning in exits.MEANING.items()
    ]
    return "\n".join(["| code | meaning | errors |", "|---|---|---|", *rows, ""])


def rewrite(page: str) -> str:
    """`page` with what stands between the two markers replaced by the reference of today."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{markdown()}\n{END}{tail}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(rewrite(path.read_text(encoding="utf-8")), encoding="utf-8")

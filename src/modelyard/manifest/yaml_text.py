"""YAML text to plain values with the line of every key, and back.

Scalars follow the YAML 1.2 core schema (`no` and `on` are texts, `1e-3` is a number), not PyYAML's 1.1. Tags,
duplicate keys, merge keys and alias bombs are refused, so reading a hostile manifest is bounded in time and memory.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

import yaml

from modelyard.domain.errors import InvalidInput
from modelyard.manifest.problems import KeyPath, Problems

Plain: TypeAlias = bool | int | float | str | list["Plain"] | dict[str, "Plain"] | None

MAX_TEXT_BYTES = 1024 * 1024
_MAX_NODES = 50_000
_MAX_DEPTH = 32
_MAX_ALIASES = 64

_CORE = (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+0123456789."),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  (PyYAML's own registry, filled below)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 *or* 1.2 would read as something else than a text, so that any reader agrees."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML folds the line breaks of YAML 1.1 (NEL, LS, PS) and blanks at line ends; escapes keep them.
    plain = all(c.isprintable() or c == "\n" for c in text) and " \n" not in text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent_text)

for _name, _pattern, _first in _CORE:
    _regexp = re.compile(rf"^{_pattern}$")
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _regexp, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _regexp, _first)


@dataclass
class YamlText:
    """The plain value of a YAML text and the 1-based line of every key and list item."""

    value: Plain
    lines: dict[KeyPath, int] = field(default_factory=dict)


def read(text: str, problems: Problems) -> YamlText:
    """Read one YAML document. What is wrong inside goes to `problems`; text that is no YAML raises InvalidInput."""
    name = problems.source_name
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
        raise InvalidInput(f"{name} is larger than {MAX_TEXT_BYTES} bytes", hint="a manifest is a page of YAML")
    try:
        _check_events(text, name)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidInput(
            f"{name}:{line} is not valid YAML",
            why=error.problem or error.context or "it cannot be parsed",
            hint="check indentation, quotes and brackets at that line",
        ) from error
    except yaml.YAMLError as error:
        raise InvalidInput(f"{name} is not valid YAML", why=str(error), hint="save it as plain UTF-8 text") from error
    result = YamlText(None)
    problems.lines = result.lines
    result.value = _Walk(result.lines, problems).value(node, ()) if node is not None else None
    return result


def dump(value: Plain) -> str:
    """Write plain values as YAML in the order given."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def flow(value: Plain) -> str:
    """Write plain values as YAML in one line: `{integer: [1, 8], log2: true}`."""
    text = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"), default_flow_style=True
    )
    return str(text).removesuffix("...\n").rstrip("\n")


def _check_events(text: str, name: str) -> None:
    """Refuse tags and excess before anything recursive runs."""
    depth = nodes = aliases = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise InvalidInput(
                f"{name}:{line}: YAML tags are not used in a manifest",
                why=f"found '{tag}'",
                hint="remove the tag; put a text in quotes",
            )
        nodes += isinstance(event, yaml.NodeEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or nodes > _MAX_NODES or aliases > _MAX_ALIASES:
            raise InvalidInput(
                f"{name}:{line}: too deeply nested, too long or too many aliases",
                why=f"at most {_MAX_DEPTH} levels, {_MAX_NODES} values and {_MAX_ALIASES} aliases are read",
                hint="a manifest is a page of YAML",
            )


class _Walk:
    """Composed nodes to plain values. Aliases share nodes, so visits are counted again here."""

    def __init__(self, lines: dict[KeyPath, int], problems: Problems) -> None:
        self._lines = lines
        self._problems = problems
        self._visits = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Plain:
        self._visits += 1
        if self._visits > _MAX_NODES or len(path) > _MAX_DEPTH:
            raise InvalidInput(
                f"{self._problems.source_name}: its aliases expand to more than {_MAX_NODES} values or "
                f"{_MAX_DEPTH} levels",
                hint="write the values out instead of aliasing them",
            )
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(child, (*path, i)) for i, child in enumerate(node.value)]
        return self._scalar(node, path)

    def _item(self, node: yaml.Node, path: KeyPath) -> Plain:
        self._lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Plain]:
        result: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            # Any scalar may be a key: a tensor may be called `0` or `null`; the text is what counts.
            if not isinstance(key_node, yaml.ScalarNode):
                self._problems.add(path, "a key must be a single word", line=line)
                continue
            key = str(key_node.value)
            if key in result:
                first = self._lines[(*path, key)]
                self._problems.add((*path, key), f"this key stands twice (first at line {first})", line=line)
                continue
            self._lines[(*path, key)] = line
            result[key] = self.value(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Plain:
        text = str(node.value)
        kind = node.tag.rpartition(":")[2]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            if len(text) > 64:
                self._problems.add(path, "this number is too long (put it in quotes if it is a text)")
                return None
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if kind == "float":
            return float(text.replace(".inf", "inf").replace(".nan", "nan")) if "." in text[:2] else float(text)
        return text

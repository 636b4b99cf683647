"""Constraints such as `replicas * threads <= cores`: read by a small grammar over Python's syntax tree, never evaluated
as code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from modelyard.domain.errors import InvalidInput
from modelyard.domain.study import Knob
from modelyard.manifest.problems import nearest

MOST_CHARACTERS: Final = 300
"""Of an expression; it also bounds how deep one can nest."""

Values: TypeAlias = Mapping[str, Knob]
_Code: TypeAlias = Callable[[Values], Knob]

_ARITHMETIC: Final[Mapping[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ORDER: Final[Mapping[type[ast.cmpop], Callable[[Knob, Knob], bool]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EQUALITY: Final[Mapping[type[ast.cmpop], Callable[[Knob, Knob], bool]]] = {ast.Eq: operator.eq, ast.NotEq: operator.ne}
_FUNCTIONS: Final[Mapping[str, Callable[[list[float]], float]]] = {"min": min, "max": max}
_GRAMMAR: Final = (
    "use names of knobs and constants, numbers, 'texts', + - * / // %, min(), max(), comparisons, and, or, not"
)


@dataclass(frozen=True)
class Expression:
    """A parsed expression; `names` are what it reads. Evaluating it is thread-safe."""

    text: str
    names: frozenset[str]
    _code: _Code
    truth: bool

    @classmethod
    def parse(cls, text: str, known: frozenset[str]) -> Expression:
        """Parse what may read the `known` names. Raises InvalidInput, naming the nearest name of an unknown one."""
        if len(text) > MOST_CHARACTERS:
            raise InvalidInput(f"the expression '{text[:40]}...' has more than {MOST_CHARACTERS} characters")
        try:
            tree = ast.parse(text.strip(), mode="eval")
            compiler = _Compiler(text, known)
            code = compiler.compile(tree.body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InvalidInput(f"'{text}' is not an expression", why=str(error), hint=_GRAMMAR) from error
        truth = isinstance(tree.body, ast.Compare | ast.BoolOp) or (
            isinstance(tree.body, ast.UnaryOp) and isinstance(tree.body.op, ast.Not)
        )
        return cls(text, frozenset(compiler.names), code, truth)

    def value(self, values: Values) -> Knob:
        """What it comes to. Raises InvalidInput where the values do not fit it: a division by 0, a text in a sum."""
        try:
            return self._code(values)
        except (TypeError, ArithmeticError) as error:
            shown = ", ".join(f"{name} = {values[name]}" for name in sorted(self.names))
            raise InvalidInput(f"'{self.text}' has no value for {shown}", why=str(error)) from error


@dataclass(frozen=True)
class Constraint:
    """A hard constraint: an expression that is true or false for every point."""

    expression: Expression

    @classmethod
    def parse(cls, text: str, known: frozenset[str]) -> Constraint:
        """Raises InvalidInput where the text is no condition over the `known` names."""
        expression = Expression.parse(text, known)
        if not expression.truth:
            raise InvalidInput(
                f"'{text}' is not a condition", hint="compare two sides, e.g. replicas * threads <= cores"
            )
        return cls(expression)

    @property
    def text(self) -> str:
        return self.expression.text

    def holds(self, values: Values) -> bool:
        """Whether the values keep it; one that reads a knob which is not active says nothing, and so is kept.

        Raises InvalidInput where it has no value.
        """
        if not self.expression.names <= values.keys():
            return True
        return bool(self.expression.value(values))


def number(value: Knob | bool) -> float:
    """The value as a number. Raises TypeError for a text."""
    if isinstance(value, str):
        raise TypeError(f"'{value}' is a text where a number is needed")
    return value


class _Compiler:
    """One walk over the syntax tree: each node becomes a closure, anything unknown an error."""

    def __init__(self, text: str, known: frozenset[str]) -> None:
        self._text = text
        self._known = known
        self.names: set[str] = set()

    def compile(self, node: ast.expr) -> _Code:
        match node:
            case ast.Constant(value=bool()):
                raise self._refused("true and false are not used", node)
            case ast.Constant(value=(int() | float() | str()) as value):
                if isinstance(value, float) and not math.isfinite(value):
                    raise self._refused("a number must be finite", node)
                return lambda _: value
            case ast.Name(id=name):
                return self._name(name)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._arithmetic(_ARITHMETIC[type(op)], left, right)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.compile(operand)
                return lambda values: -number(inner(values))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.compile(operand)
                return lambda values: not inner(values)
            case ast.BoolOp(op=op, values=parts):
                return self._junction(all if isinstance(op, ast.And) else any, parts)
            case ast.Compare(left=left, ops=ops, comparators=rights):
                return self._comparison(left, ops, rights)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
                return self._call(_FUNCTIONS[name], args)
        raise self._refused("this is not understood", node)

    def _name(self, name: str) -> _Code:
        if name not in self._known:
            hint = nearest(name, sorted(self._known)) if self._known else ""
            raise InvalidInput(f"'{name}' in '{self._text}' is no knob and no constant" + hint)
        self.names.add(name)
        return lambda values: values[name]

    def _arithmetic(self, apply: Callable[[float, float], float], left: ast.expr, right: ast.expr) -> _Code:
        first, second = self.compile(left), self.compile(right)
        return lambda values: apply(number(first(values)), number(second(values)))

    def _junction(self, over: Callable[[Iterable[bool]], bool], parts: list[ast.expr]) -> _Code:
        inner = [self.compile(part) for part in parts]
        return lambda values: over(bool(code(values)) for code in inner)

    def _call(self, function: Callable[[list[float]], float], args: list[ast.expr]) -> _Code:
        inner = [self.compile(arg) for arg in args]
        return lambda values: function([number(code(values)) for code in inner])

    def _comparison(self, left: ast.expr, ops: list[ast.cmpop], rights: list[ast.expr]) -> _Code:
        codes = [self.compile(part) for part in (left, *rights)]
        compares: list[Callable[[Knob, Knob], bool]] = []
        for op, node in zip(ops, rights, strict=True):
            found = _ORDER.get(type(op)) or _EQUALITY.get(type(op))
            if found is None:
                raise self._refused("only < <= > >= == != compare", node)
            compares.append(found)

        def compare(values: Values) -> bool:
            first = codes[0](values)
            for test, code in zip(compares, codes[1:], strict=True):
                second = code(values)
                if not test(first, second):
                    return False
                first = second
            return True

        return compare

    def _refused(self, why: str, node: ast.expr) -> InvalidInput:
        part = ast.get_source_segment(self._text.strip(), node) or self._text
        return InvalidInput(f"'{part}' cannot stand in '{self._text}'", why=why, hint=_GRAMMAR)

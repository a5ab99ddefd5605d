"""Break a module in every possible way: one operator, bound, sign, mask, constant or name at a time.

Annotations, docstrings, imports, `strict=` and the texts of errors are left alone: they compute nothing.
`mutants(source)` yields each changed module with the line it changed and how; `benchmarks/mutate.py` runs
the tests on them.
"""

import ast
import copy
from collections.abc import Iterator
from typing import NamedTuple

OPERATORS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
# Bounds, sides, signs and masks that have a name: attributes, variables and strings alike.
NAMES: dict[str, tuple[str, ...]] = {
    "lt": ("le", "gt"),
    "gt": ("ge", "lt"),
    "le": ("lt", "ge"),
    "ge": ("gt", "le"),
    "lt_": ("ge_",),
    "eq": ("ne",),
    "ne": ("eq",),
    "minimum": ("maximum",),
    "maximum": ("minimum",),
    "amax": ("amin",),
    "amin": ("amax",),
    "add": ("sub",),
    "sub": ("add",),
    "sub_": ("add",),
    "upper": ("lower",),
    "lower": ("upper",),
    "low": ("high",),
    "high": ("low",),
    "below": ("above",),
    "above": ("below",),
    "epsilon_low": ("epsilon_high",),
    "epsilon_high": ("epsilon_low",),
    "negative": ("positive",),
    "positive": ("negative",),
    "mismatch": ("bypass",),
    "bypass": ("mismatch",),
    "logp": ("logp_old",),
    "logp_old": ("logp",),
    "accepted": ("kept",),
    "kept": ("accepted",),
    "rejected": ("uncounted",),
    "uncounted": ("rejected",),
    "counted": ("count",),
    "slope": ("loss",),
    "now": ("reference",),
    "clamped": ("value",),
}
# Calls that can be left out: `x.abs()` becomes `x`, `clean(x, real)` becomes `x`.
METHODS = frozenset({"abs", "clamp", "clone", "cumsum", "detach", "exp", "expm1", "sqrt", "square"})
WRAPPERS = frozenset({"clean"})


class Mutant(NamedTuple):
    """One changed module: the source line that was changed, what was changed in it, the whole new text."""

    number: int
    line: str
    change: str
    source: str


class _Place(NamedTuple):
    """A node that computes something, and the expression around it that says which of its kind it is."""

    node: ast.AST
    shown: ast.AST


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in source order."""
    tree, lines = ast.parse(source), source.splitlines()
    for i, (node, shown) in enumerate(_places(tree)):
        for new in _variants(node):
            fresh = copy.deepcopy(tree)
            target, context = _places(fresh)[i]
            new = copy.deepcopy(new)
            fresh = ast.fix_missing_locations(_Replace(target, new).visit(fresh))
            change = f"{_text(shown)} -> {_text(new if context is target else context)}"
            number = node.lineno  # type: ignore[attr-defined]
            yield Mutant(number, lines[number - 1].strip(), change, ast.unparse(fresh))


class _Replace(ast.NodeTransformer):
    def __init__(self, target: ast.AST, new: ast.AST) -> None:
        self.target, self.new = target, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.target else self.generic_visit(node)


def _text(node: ast.AST) -> str:
    return ast.unparse(node.test if isinstance(node, ast.If) else node)


def _places(tree: ast.AST) -> list[_Place]:
    found: list[_Place] = []

    def walk(node: ast.AST, parent: ast.AST) -> None:
        if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.arguments | ast.alias):
            return
        if isinstance(node, ast.keyword) and node.arg == "strict":
            return
        small = isinstance(node, ast.Constant | ast.Name | ast.Attribute)
        inside = small and isinstance(parent, ast.expr | ast.keyword)
        found.append(_Place(node, parent if inside else node))
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _docstring(child):
                    walk(child, node)

    walk(tree, tree)
    return [place for place in found if hasattr(place.node, "lineno")]


def _docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.BinOp() | ast.BoolOp():
            for swap in OPERATORS.get(type(node.op), ()):
                yield _with(node, op=swap())
            if isinstance(node.op, ast.Mult):  # a mask forgotten
                yield node.left
        case ast.Compare(ops=[op]):
            for swap in OPERATORS.get(type(op), ()):
                yield _with(node, ops=[swap()])
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield operand
        case ast.If(test=ast.Name() | ast.Attribute()):
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1 if abs(value) < 1e9 else value / 2)
        case ast.Constant(value=str(value)):
            yield from (ast.Constant(name) for name in NAMES.get(value, ()))
        case ast.Attribute(attr=attr, ctx=ast.Load()):
            yield from (_with(node, attr=name) for name in NAMES.get(attr, ()))
        case ast.Name(id=name, ctx=ast.Load()):
            yield from (_with(node, id=other) for other in NAMES.get(name, ()))
        case ast.keyword(arg="min" | "max" as bound):
            yield _with(node, arg="max" if bound == "min" else "min")
        case ast.Call():
            yield from _without(node)


def _without(call: ast.Call) -> Iterator[ast.AST]:
    """The call left out, where what it is called on or with can stand for it."""
    match call.func:
        case ast.Attribute(attr=attr, value=value) if attr in METHODS or (
            attr.endswith("_") and not attr.startswith("_")
        ):
            yield value
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in WRAPPERS:
            yield call.args[0]


def _with(node: ast.AST, **fields: object) -> ast.AST:
    fresh = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(fresh, name, value)
    return fresh

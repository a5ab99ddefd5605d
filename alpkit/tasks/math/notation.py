r"""Read the structure of an answer's text: a list, a set, a tuple or interval, a matrix, or one value.

Only the outside is read here. What stands inside brackets is read again, one value is left as text for
`alpkit.tasks.math.equivalence`. Brackets mean what they say: (1, 2), [1, 2], \{1, 2\} and 1, 2 are four
different answers.

Usage: `read(r"\left[0,\infty\right)")`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|[bB]ig[lr]?|q?quad|limits|[,;:!>])(?![A-Za-z])"
    r"|(?<!\\)\\ |~"
)
_SPELLED = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ",
    "≥": r"\ge ", "∪": r"\cup ", "∅": r"\emptyset ", "±": r"\pm ", "√": r"\sqrt ", "÷": "/",
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\leqslant": r"\le ", r"\leq": r"\le ",
    r"\geqslant": r"\ge ", r"\geq": r"\ge ", r"\lt": "<", r"\gt": ">", r"\lbrace": r"\{", r"\rbrace": r"\}",
    r"\langle": "(", r"\rangle": ")", r"\varnothing": r"\emptyset", r"\mathrm{": r"\text{",
    r"\textbf{": r"\text{", r"\textit{": r"\text{", r"\mbox{": r"\text{", r"\mathbf{": r"\text{",
    r"\lvert": "|", r"\rvert": "|",
}  # fmt: skip
# A command ends where its letters end: \\leq must not be found in \\leqslant, nor \\lt in \\lthree.
_SPELLING = re.compile(
    "|".join(
        re.escape(old) + ("(?![A-Za-z])" if old[-1].isalpha() and old[0] == "\\" else "")
        for old in sorted(_SPELLED, key=len, reverse=True)
    )
)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}\Z", re.DOTALL)
_CONJUNCTION = re.compile(r"\\text\{\s*(?:and|or)\s*\}|(?<=[\s\d}])(?:and|or)(?=[\s\\(])")
_NAME = re.compile(
    r"(?:\\?[A-Za-z]+|[A-Za-z]_\{?\w+\}?|[A-Za-z]\([A-Za-z]\)|\\text\{[^{}]*\})\s*\Z"
)
_RELATION = re.compile(r"\\le(?![a-z])|\\ge(?![a-z])|<|>")
_VARIABLE = re.compile(r"[A-Za-z]\Z")


@dataclass(frozen=True)
class Value:
    """One value, as text; `name` is what stood before an equals sign, as in x = 3."""

    text: str
    name: str = ""


@dataclass(frozen=True)
class Many:
    """Several values without an order: a plain list, a set, or a union of intervals."""

    kind: str
    parts: "tuple[Answer, ...]"


@dataclass(frozen=True)
class Bracketed:
    """Values in an order between brackets: a tuple, a point, an interval."""

    opening: str
    parts: "tuple[Answer, ...]"
    closing: str


@dataclass(frozen=True)
class Matrix:
    """Rows of a matrix or of a column vector."""

    rows: "tuple[tuple[Answer, ...], ...]"


Answer = Value | Many | Bracketed | Matrix


class UnreadableError(ValueError):
    """The text has no structure: brackets that do not close, or nothing in it."""


def read(text: str) -> Answer:
    """Read an answer's structure; raises `UnreadableError`."""
    text = clean(text)
    if not text:
        raise UnreadableError("it is empty")
    _check_braces(text)
    return _read(text)


def clean(text: str) -> str:
    """Take off dollar signs, sizes and spacing commands, and spell every symbol one way."""
    text = text.strip()
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > 2 * len(opening) - 1:
            text = text[len(opening) : len(text) - len(closing)].strip()
            break
    text = _SPELLING.sub(lambda found: _SPELLED[found[0]], text)
    text = re.sub(r"(?<=\d)\{,\}(?=\d)|(?<=\d),\\!(?=\d)", "", text)
    text = _DROPPED.sub(" ", text)
    text = text.removeprefix(r"\approx").strip()
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"(?<!\\)\.\Z", "", text).strip()


def _read(text: str) -> Answer:
    text = text.strip()
    inner = _unwrapped(text)
    if found := _MATRIX.match(inner if inner is not None and inner.startswith(r"\begin") else text):
        rows = [row for row in re.split(r"\\\\", found[2]) if row.strip()]
        return Matrix(tuple(tuple(_read(cell) for cell in split(row, "&")) for row in rows))
    if text == r"\emptyset" or re.fullmatch(r"\\\{\s*\\\}", text):
        return Many("set", ())
    if len(parts := split(text, r"\cup")) > 1:
        return Many("union", tuple(map(_read, parts)))
    if len(parts := split(text, r"\in")) == 2 and _NAME.match(parts[0].strip()):
        return _read(parts[1])
    parts = [part for piece in split_words(text) for part in split(_without_thousands(piece), ",")]
    if len(parts) > 1:
        return _several(parts)
    text = _without_thousands(text)
    if text.startswith(r"\{") and text.endswith(r"\}") and _closes_last(text, r"\{"):
        body = text[2:-2]
        if not re.search(r"\\mid|:|\|", body):
            return Many("set", _distinct([_read(part) for part in split(body, ",")]))
    if inner is not None:
        if len(parts := split(inner, ",")) > 1:
            return Bracketed(text[0], tuple(map(_read, parts)), text[-1])
        if not text.startswith("["):
            return _read(inner)
    if _RELATION.search(text) and (interval := _interval(text)):
        return interval
    if len(parts := split(text, r"\pm")) == 2:
        return Many("list", tuple(_read(f"{parts[0]}{sign}{parts[1]}") for sign in ("+", "-")))
    return _value(text)


def _several(parts: list[str]) -> Answer:
    if any(not part.strip() for part in parts):
        raise UnreadableError("a comma has nothing on one side")
    answers = [_read(part) for part in parts]
    if all(
        isinstance(answer, Bracketed) and _RELATION.search(part)
        for answer, part in zip(answers, parts, strict=True)
    ):
        return Many("union", tuple(answers))
    return Many("list", tuple(answers))


def _value(text: str) -> Value:
    sides = split(text, "=")
    if len(sides) == 2 and _NAME.match(sides[0].strip()):
        return Value(sides[1].strip(), sides[0].strip())
    # 3 + 4 = 7 answers 7; x + 1 = 7 does not.
    if len(sides) > 1 and not any(
        re.search(r"(?<!\\)(?<![A-Za-z])[A-Za-z](?![A-Za-z])", side) for side in sides[:-1]
    ):
        return Value(sides[-1].strip())
    return Value(text)


def _interval(text: str) -> Bracketed | None:
    """Read a < x, x <= b or a < x <= b as the interval that it describes."""
    signs = [sign.strip() for sign in _RELATION.findall(text)]
    sides = [side.strip() for side in _RELATION.split(text)]
    if len(sides) == 2 and _VARIABLE.match(sides[1]) and not _VARIABLE.match(sides[0]):
        sides, signs = sides[::-1], [_flipped(signs[0])]
    if len(sides) == 2 and _VARIABLE.match(sides[0]) and not _VARIABLE.match(sides[1]):
        closed, end = "e" in signs[0], _read(sides[1])
        if signs[0] in ("<", r"\le"):
            return Bracketed("(", (Value(r"-\infty"), end), "]" if closed else ")")
        return Bracketed("[" if closed else "(", (end, Value(r"\infty")), ")")
    if len(sides) == 3 and _VARIABLE.match(sides[1]):
        if all(sign in (">", r"\ge") for sign in signs):
            sides, signs = sides[::-1], [_flipped(sign) for sign in signs[::-1]]
        if all(sign in ("<", r"\le") for sign in signs):
            opening, closing = "[" if "e" in signs[0] else "(", "]" if "e" in signs[1] else ")"
            return Bracketed(opening, (_read(sides[0]), _read(sides[2])), closing)
    return None


def _flipped(sign: str) -> str:
    return {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}[sign]


def split(text: str, separator: str) -> list[str]:
    """Split at every `separator` that stands outside all brackets."""
    parts, start = [], 0
    for at, depth in _depths(text):
        if depth == 0 and at >= start and text.startswith(separator, at):
            after = text[at + len(separator) : at + len(separator) + 1]
            if separator[-1].isalpha() and after.isalpha():
                continue
            parts.append(text[start:at])
            start = at + len(separator)
    return [*parts, text[start:]]


def split_words(text: str) -> list[str]:
    """Split at `and` and `or` outside all brackets."""
    depths = dict(_depths(text))
    parts, start = [], 0
    for found in _CONJUNCTION.finditer(text):
        if depths.get(found.start(), 1) == 0 and text[start : found.start()].strip(" ,"):
            parts.append(text[start : found.start()].strip().rstrip(","))
            start = found.end()
    return [*parts, text[start:]]


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """Yield every position with the number of brackets that are open before it."""
    depth, at = 0, 0
    while at < len(text):
        token = text[at : at + 2] if text[at] == "\\" else text[at]
        env = (
            r"\begin"
            if text.startswith(r"\begin", at)
            else r"\end"
            if text.startswith(r"\end", at)
            else ""
        )
        if token in (")", "]", "}", r"\}") or env == r"\end":
            depth -= 1
        yield at, depth
        if token in ("(", "[", "{", r"\{") or env == r"\begin":
            depth += 1
        at += len(token)


def _check_braces(text: str) -> None:
    bare = re.sub(r"\\[{}]", "", text)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            break
    if depth:
        raise UnreadableError("its braces do not match")


def _unwrapped(text: str) -> str | None:
    """Give what is inside one pair of round or square brackets around all of the text."""
    if (
        len(text) < 3
        or text[0] not in "(["
        or text[-1] not in ")]"
        or not _closes_last(text, text[0])
    ):
        return None
    return text[1:-1].strip()


def _closes_last(text: str, opening: str) -> bool:
    """Whether the bracket that opens the text closes at its very end."""
    depths = [depth for at, depth in _depths(text) if len(opening) <= at < len(text) - len(opening)]
    return all(depth > 0 for depth in depths)


def _without_thousands(text: str) -> str:
    depths = dict(_depths(text))
    return _THOUSANDS.sub(
        lambda m: m[0].replace(",", "") if depths.get(m.start()) == 0 else m[0], text
    )


def _distinct(parts: list[Answer]) -> tuple[Answer, ...]:
    return tuple(dict.fromkeys(parts))

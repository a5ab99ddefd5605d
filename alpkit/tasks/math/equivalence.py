r"""Decide whether an answer equals the gold answer, the right one that a problem comes with.

math-verify (on sympy) is asked only where the grader's own rules do not decide.

The conventions (docs/tasks.md has them with examples):

- An integer, decimal or fraction asks for a number that is written out: 2+2 and \sqrt{16} do not answer 4,
  or a policy would learn to box the question. Fractions need not be in lowest terms.
- Numbers are compared exactly. A decimal answers a value that is no decimal itself if it has six significant
  digits and is that value, rounded.
- A unit may be left out on either side; two different units are a wrong answer, nothing is converted.
- p\% is p/100. A gold answer with a percent sign also takes the bare p, one without and above 1 takes p\%.
- Lists, sets and unions have no order; tuples, points and intervals have one, and their brackets count.
- Everything else is equal if math-verify says so; \log is the decimal logarithm, \ln the natural one.

`equivalent` may run for long or for ever: call it through `alpkit.tasks.math.pool`.
"""

import logging
from fractions import Fraction
from functools import lru_cache
from typing import Any

from alpkit.tasks.math.literals import Literal, literal, split_unit
from alpkit.tasks.math.notation import (
    Answer,
    Bracketed,
    Many,
    Matrix,
    UnreadableError,
    Value,
    clean,
    read,
)

_SIGNIFICANT = 6


def equivalent(gold: str, answer: str) -> bool:
    """Whether `answer` is right where `gold` is the right answer."""
    try:
        given = read(answer)
    except UnreadableError:
        return False
    wanted = read(gold)
    return _same(wanted, given) or _same_equation(gold, answer)


def fault(gold: str) -> str:
    """Say why no answer could ever equal this gold answer; "" if one can."""
    try:
        return _fault(read(gold))
    except UnreadableError as error:
        return str(error)


def _fault(gold: Answer) -> str:
    match gold:
        case Value(text):
            body, _ = split_unit(text)
            if literal(body) or _words(body) or r"\infty" in body or _parse(body) is not None:
                return ""
            return f"{body!r} is neither a number nor an expression"
        case Many(_, parts) | Bracketed(_, parts, _):
            return next(filter(None, map(_fault, parts)), "")
        case Matrix(rows):
            return next(filter(None, (_fault(cell) for row in rows for cell in row)), "")


def _same(gold: Answer, given: Answer) -> bool:
    match gold, given:
        case Value(), Value():
            return _same_value(gold, given)
        case Matrix(rows), Matrix(others):
            shapes = [len(row) for row in rows], [len(row) for row in others]
            cells = zip((c for r in rows for c in r), (c for r in others for c in r), strict=False)
            return shapes[0] == shapes[1] and all(_same(one, other) for one, other in cells)
        case Bracketed(), Bracketed():
            ends = gold.opening == given.opening and gold.closing == given.closing
            return ends and _in_order(gold.parts, given.parts)
        case Many(), Many():
            # x = 1, x = 2 may be written as a list or as the set of its solutions; a union is neither.
            kinds = {gold.kind, given.kind}
            return (len(kinds) == 1 or "union" not in kinds) and _in_any_order(
                gold.parts, given.parts
            )
        case _:
            return False


def _in_order(gold: tuple[Answer, ...], given: tuple[Answer, ...]) -> bool:
    return len(gold) == len(given) and all(map(_same, gold, given))


def _in_any_order(gold: tuple[Answer, ...], given: tuple[Answer, ...]) -> bool:
    left = list(given)
    for part in gold:
        index = next((i for i, other in enumerate(left) if _same(part, other)), None)
        if index is None:
            return False
        del left[index]
    return not left


def _same_value(gold: Value, given: Value) -> bool:
    if gold.name and given.name and _plain(gold.name) != _plain(given.name):
        return False
    wanted, unit = split_unit(gold.text)
    answered, other = split_unit(given.text)
    percents = (unit == "percent", other == "percent")
    if not any(percents) and unit and other and unit != other:
        return False
    number, answer = literal(wanted), literal(answered)
    if number is not None:
        return answer is not None and _same_number(number, answer, *percents)
    if any(percents):
        return percents[0] == percents[1] and _same_expression(wanted, answered, answer)
    return _same_expression(wanted, answered, answer)


def _same_number(gold: Literal, answer: Literal, gold_percent: bool, answer_percent: bool) -> bool:
    hundredth = Fraction(1, 100)
    match gold_percent, answer_percent:
        case True, False:
            return _rounds_to(gold, answer) or _rounds_to(
                gold._replace(value=gold.value * hundredth), answer
            )
        case False, True:
            small = answer.value * hundredth == gold.value
            return small or (abs(gold.value) > 1 and answer.value == gold.value)
        case _:
            return _rounds_to(gold, answer)


def _rounds_to(gold: Literal, answer: Literal) -> bool:
    """Whether the two are equal, or the answer is the rounded value of a gold that is no decimal."""
    if gold.value == answer.value:
        return True
    if gold.places is not None or gold.value.denominator == 1 or answer.places is None:
        return False
    return answer.digits >= _SIGNIFICANT and round(gold.value, answer.places) == answer.value


def _same_expression(gold: str, answered: str, answer: Literal | None) -> bool:
    if _plain(gold) == _plain(answered):
        return True
    if _words(gold) or _words(answered):
        return _words(gold) == _words(answered)
    wanted = _parse(gold)
    if answer is not None and answer.places is not None:
        return _is_rounding(wanted, answer)
    given = _parse(answered)
    return wanted is not None and given is not None and _verify(wanted, given)


def _same_equation(gold: str, answer: str) -> bool:
    """Whether both are equations of the same curve, such as y = 2x + 1 and 2x - y + 1 = 0."""
    if not all(text.count("=") == 1 and "," not in text for text in (gold, answer)):
        return False
    wanted, given = _parse(clean(gold)), _parse(clean(answer))
    return wanted is not None and given is not None and _verify(wanted, given)


def _is_rounding(gold: Any, answer: Literal) -> bool:
    r"""Whether a decimal is the rounded value of an expression such as \pi or \sqrt{2}."""
    if gold is None or not getattr(gold, "is_number", False) or not gold.is_real:
        return False
    exact = Fraction(str(gold.evalf(50)))
    places = answer.places or 0
    if exact == answer.value:
        return True
    return answer.digits >= _SIGNIFICANT and round(exact, places) == answer.value


def _words(text: str) -> str:
    r"""Give the words of an answer that is text, such as \text{Monday} or B; "" for anything else."""
    bare = (
        text.replace(r"\text{", " ").replace("}", " ").strip()
        if text.startswith(r"\text{")
        else text
    )
    bare = bare.strip("() ")
    letters = bare.replace(" ", "").replace("-", "")
    if text.startswith(r"\text{") and bare and "\\" not in bare:
        return " ".join(bare.casefold().split())
    is_word = letters.isalpha() and (
        len(letters) > 3 or letters.casefold() in ("yes", "no", "odd", "a", "b", "c", "d", "e")
    )
    # A single capital is a choice: a lower-case letter is a variable.
    return (
        " ".join(bare.casefold().split())
        if is_word and (len(letters) > 1 or letters.isupper())
        else ""
    )


def _plain(text: str) -> str:
    return text.replace(" ", "").replace("{", "").replace("}", "")


@lru_cache(maxsize=1024)
def _parse(text: str) -> Any:
    """Parse a LaTeX text to a sympy expression; None where math-verify finds none."""
    from math_verify import LatexExtractionConfig, parse

    _silence()
    found = parse(
        f"${text}$",
        extraction_config=[LatexExtractionConfig()],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,
    )
    return found[0] if found and not isinstance(found[0], str) else None


def _verify(gold: Any, answer: Any) -> bool:
    from math_verify import verify

    # Its timeouts use SIGALRM and score 0 outside the main thread: the pool has the only deadline.
    return bool(verify(gold, answer, strict=True, float_rounding=12, timeout_seconds=None))


@lru_cache(maxsize=1)
def _silence() -> None:
    # It says once per call that its own timeouts are off, which is on purpose.
    for name in ("math_verify.parser", "math_verify.grader", "math_verify"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

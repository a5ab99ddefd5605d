"""Text answers: finding the final one in a response, and comparing it without partial credit."""

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(
    r"(?:(?<![\w.)])[-+])?"  # a sign after a digit or bracket is an operator
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][+-]?\d+)?(?:/\d+)*"
)
_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?")
_MARKER = re.compile(r"answer\s*(?:is\b\s*:?|:|=)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{(.*)\}")
_WRAPPERS = ("**", "$", "`", '"', "'")


def matches(response: str, answer: str) -> bool:
    """Whether the response's final answer is exactly `answer`.

    A number is compared by value with the last number in the response. Any other answer is compared
    as text, case included, with what `extract` finds; runs of spaces count as one.
    """
    if _PLAIN_NUMBER.fullmatch(answer.strip()):
        return _last_number(response) == Decimal(answer.strip())
    wanted = _squeeze(answer)
    found = extract(response, lines=len(wanted), cut_equals="=" not in answer)
    return wanted in (found, _unwrap(found))


def extract(response: str, *, lines: int = 1, cut_equals: bool = True) -> list[str]:
    """Find the final answer: what follows the last "answer is" or "answer:", else the last line.

    An answer of several lines is everything after the marker, else the last `lines` lines. On a
    single line only what follows the last "=" counts, unless the right answer has one itself.
    """
    marked = [match.end() for match in _MARKER.finditer(response)]
    if marked and (after := _squeeze(response[marked[-1] :])):
        found = after if lines > 1 else after[:1]
    else:
        found = _squeeze(response)[-lines:]
    if lines == 1 and cut_equals:
        found = [line.rpartition("=")[2].strip() for line in found]
    return found


def _squeeze(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _unwrap(lines: Sequence[str]) -> list[str]:
    r"""Take quotes, markdown, \boxed{} and a final full stop off a one-line answer."""
    if len(lines) != 1:
        return list(lines)
    text = lines[0].removesuffix(".")
    if boxed := _BOXED.search(text):
        text = boxed[1]
    for mark in _WRAPPERS:
        if len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)]
    return [text.removesuffix(".").strip()]


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))
    if not found:
        return None
    try:
        # A fraction or a huge exponent is not a Decimal: no match, rather than its last digits.
        return Decimal(found[-1].replace(",", ""))
    except InvalidOperation:
        return None

r"""Read numbers that are written out, with their units: exactly, without sympy.

`\frac{3}{4}`, `0.75`, `1\frac12`, `1.2\times10^3` are literals; `2+2`, `\sqrt{16}`, `2^{10}` are not. A
number followed by a unit is a value and that unit; percent and number bases count as units here.

Usage: `literal(r"-\frac12")` is Fraction(-1, 2); `split_unit(r"5\text{ cm}")` is ("5", "cm").
"""

import re
from fractions import Fraction
from typing import NamedTuple

_DECIMAL = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PLAIN = re.compile(rf"{_DECIMAL}\Z")
_SCIENTIFIC = re.compile(
    rf"({_DECIMAL})(?:\\(?:times|cdot)10\^(?:\{{([-+]?\d{{1,3}})\}}|(\d))|[eE]([-+]?\d{{1,3}}))\Z"
)
_FRACTION = re.compile(
    rf"(\d+)?(?:\\frac(?:\{{([-+]?{_DECIMAL})\}}|(\d))(?:\{{({_DECIMAL})\}}|(\d))|({_DECIMAL})/({_DECIMAL}))\Z"
)
_MIXED = re.compile(r"(\d+)\s+(\d+)/(\d+)\Z")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}\Z")
_BASE = re.compile(r"(\d+)_(?:\{(?:\\text\{)?([\w ]+)\}?\}|(\d))\Z")
_WORD_BASES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
}
_TEXT_UNIT = re.compile(r"\\text\{([^{}]*)\}(?:\^(?:\{(\d)\}|(\d)))?\Z")
_BARE_UNIT = re.compile(
    r"(?<![\\A-Za-z])([A-Za-z]{2,}(?:\s*/\s*[A-Za-z]+)?)(?:\^(?:\{(\d)\}|(\d)))?\Z"
)

_ALIASES = {
    "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards",
    "mi": "mile miles",
    "mg": "milligram milligrams",
    "g": "gram grams",
    "kg": "kilogram kilograms",
    "lb": "lbs pound pounds",
    "oz": "ounce ounces",
    "ml": "milliliter milliliters millilitre millilitres",
    "l": "liter liters litre litres",
    "s": "sec secs second seconds",
    "min": "mins minute minutes",
    "h": "hr hrs hour hours",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "deg": "degree degrees",
    "rad": "radian radians",
    "dollar": "dollars usd",
    "cent": "cents",
    "euro": "euros",
    "unit": "units",
    "percent": "",
    "mph": "",
}
_CANONICAL = {alias: unit for unit, names in _ALIASES.items() for alias in (unit, *names.split())}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3}


class Literal(NamedTuple):
    """A number as written: its value, and the decimal places if it was written as a decimal."""

    value: Fraction
    places: int | None = None
    digits: int = 0
    """Significant digits of a decimal."""


def literal(text: str) -> Literal | None:
    """Read a number that is written out; None for anything that would have to be worked out."""
    text = text.strip()
    sign = 1
    while text[:1] in ("+", "-"):
        sign, text = (-sign if text[0] == "-" else sign), text[1:].strip()
        if text[:1] in ("+", "-"):
            return None
    if mixed := _MIXED.match(text):
        whole, over, under = map(int, mixed.groups())
        return Literal(sign * (whole + Fraction(over, under))) if under else None
    text = text.replace(" ", "")
    if _PLAIN.match(text):
        return _decimal(text, sign)
    if found := _SCIENTIFIC.match(text):
        exponent = int(found[2] or found[3] or found[4])
        return Literal(sign * Fraction(found[1].rstrip(".") or "0") * Fraction(10) ** exponent)
    if found := _REPEATING.match(text):
        return Literal(sign * _repeating(*found.groups()))
    if found := _FRACTION.match(text):
        top, bottom = found[2] or found[3] or found[6], found[4] or found[5] or found[7]
        if found[1] and (found[6] or "." in top):  # 12/3 is no mixed number, nor is 1\frac{0.5}{2}
            return None
        if not Fraction(bottom):
            return None
        return Literal(sign * (int(found[1] or 0) + Fraction(top) / Fraction(bottom)))
    return None


def split_unit(text: str) -> tuple[str, str]:
    """Split a value from the unit behind (or, for money, before) it; the unit is "" where there is none."""
    text = text.strip()
    if text.endswith("\\%") or text.endswith("%"):
        return text.removesuffix("%").removesuffix("\\").strip(), "percent"
    for mark in ("^{\\circ}", "^\\circ", "\\degree", "°"):
        if text.endswith(mark):
            return text.removesuffix(mark).strip(), "deg"
    if text.startswith(("\\$", "€", "-\\$")):
        unit = "euro" if text[0] == "€" else "dollar"
        value = text.replace("\\$", "", 1).removeprefix("€").strip()
        return (
            (split_unit(value)[0], "cent?")
            if _money_clash(value, unit)
            else (split_unit(value)[0], unit)
        )
    if found := _BASE.match(text):
        base = found[3] or _WORD_BASES.get(found[2].strip(), found[2].strip())
        return (found[1], f"base {base}") if base.isdigit() else (text, "")
    if (found := _TEXT_UNIT.search(text)) and (value := text[: found.start()].strip()):
        return value, canonical_unit(found[1], found[2] or found[3])
    if (found := _BARE_UNIT.search(text)) and (value := text[: found.start()].strip()):
        first = re.split(r"\s*/\s*", found[1])[0].lower()
        if first in _CANONICAL and literal(value) is not None:
            return value, canonical_unit(found[1], found[2] or found[3])
    words = re.search(r"((?:[A-Za-z]{2,}\s+)*[A-Za-z]{2,})\Z", text)
    if (
        words
        and literal(value := text[: words.start()].strip()) is not None
        and text[words.start() - 1] == " "
    ):
        return value, canonical_unit(words[1], None)
    return text, ""


def _money_clash(value: str, unit: str) -> bool:
    other = split_unit(value)[1]
    return other not in ("", unit)


def canonical_unit(text: str, power: str | None) -> str:
    """Write a unit one way: "square centimetres" and "cm" with power 2 are both cm^2."""
    words = re.sub(r"\s*/\s*", " per ", text.lower().replace(".", "")).split()
    parts: list[str] = []
    exponent = int(power or 1)
    raised = 1
    for word in words:
        if word in _POWERS:
            raised = _POWERS[word]
            if word.endswith("ed") and parts:
                parts[-1], raised = f"{parts[-1]}^{raised}", 1
            continue
        if word in ("of", "the"):
            continue
        unit = _CANONICAL.get(word, word.removesuffix("s") if len(word) > 3 else word)
        parts.append(f"{unit}^{raised}" if raised > 1 else unit)
        raised = 1
    if exponent > 1 and parts:
        parts[-1] = f"{parts[-1]}^{exponent}"
    return {"mi per h": "mph"}.get(" ".join(parts), " ".join(parts))


def _decimal(text: str, sign: int) -> Literal:
    text = text.rstrip(".") if text != "." else "0"
    whole, _, after = text.partition(".")
    digits = len((whole + after).lstrip("0"))
    return Literal(sign * Fraction(text), len(after) if after else None, digits)


def _repeating(whole: str, fixed: str, cycle: str) -> Fraction:
    scale = int("1" + "0" * len(fixed))
    period = Fraction(int(cycle), int("9" * len(cycle)))
    return int(whole or 0) + (int(fixed or 0) + period) / Fraction(scale)

"""Make a figure's SVG part of a page: arms that can be hidden, colours that follow the page, values to read.

matplotlib writes a file for itself; inside a page its ids must not meet another figure's, its ink must turn
light on a dark page, and its arms need a name by which a script finds them.
"""

import html
import json
import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alpkit.analysis.figures.panels import ARM_MARK, INK, RAW, SOFT, Looks

POINTS: Final = 60
"""Points of a line that a page can read out; more would be its weight."""
_LONG: Final = re.compile(r"(\d\.\d\d)\d+")
_GRID: Final = "#e3e6ea"
_ROLES: Final = {INK: "--fg", SOFT: "--soft", _GRID: "--line"}


class Drawing(NamedTuple):
    """`svg` for the page, the arms that it can hide, and its lines' values as JSON (empty: none)."""

    svg: str
    arms: tuple[str, ...]
    values: str


def inline(svg: str, name: str, figure: Figure, looks: Looks, *, alt: str) -> Drawing:
    """Make a drawn figure part of a page; `name` is what its ids begin with, `alt` says what is seen."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", body)
    present = {
        str(artist.get_gid()).removeprefix(ARM_MARK)
        for axes in figure.axes
        for artist in axes.get_children()
        if str(artist.get_gid() or "").startswith(ARM_MARK)
    }
    arms = tuple(arm for arm in looks if arm in present)
    body = re.sub(f'id="{ARM_MARK}([^"]*)"', r'data-arm="\1"', body)
    body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", body)
    body = _coloured(body, looks)
    # The page has fonts of its own, and says them once.
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font: (\d+) ([\d.]+)px [^;\"]*", r"font-weight: \1; font-size: \2px", body)
    body = re.sub(r">\s+<", "><", body)
    # A hundredth of a point is less than a pixel.
    body = re.sub(r'"[^"]*"', lambda found: _LONG.sub(r"\1", found[0]), body)
    body, cut = _without_legend(body, figure, arms)
    body = body.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)
    panels = list(_panels(figure, 1 - cut)) if arms else []
    return Drawing(body, arms, _json(panels) if panels else "")


def colour_name(colour: str) -> str:
    """Give the page's variable for an arm's colour: lighter on a dark page."""
    return f"--c{colour.lstrip('#').lower()}"


def colour_rules(looks: Looks) -> str:
    """Write the style rules that give every arm's colour its variable, light and dark."""
    colours = sorted({look.colour.lower() for look in looks.values()})
    light = "".join(f"{colour_name(c)}:{c};" for c in colours)
    dark = "".join(f"{colour_name(c)}:color-mix(in oklab,{c} 72%,white);" for c in colours)
    return (
        f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        f"@media print{{:root{{{light}}}}}"
    )


def _coloured(body: str, looks: Looks) -> str:
    for colour, role in _ROLES.items():
        body = body.replace(colour, f"var({role})")
    for colour in {look.colour.lower() for look in looks.values()}:
        body = body.replace(colour, f"var({colour_name(colour)})")
    # White is paper: the page's own shows through.
    body = body.replace("fill: #ffffff", "fill: none")
    # Text without a colour is black, which a dark page swallows.
    return re.sub(r"<text style=\"(?![^\"]*fill)", '<text style="fill: var(--fg); ', body)


def _without_legend(body: str, figure: Figure, arms: Sequence[str]) -> tuple[str, float]:
    """Cut the legend off where the page's own buttons say the same; also the share of the height that went."""
    legend = figure.legends[0] if figure.legends else None
    if legend is None or not {text.get_text() for text in legend.get_texts()} <= set(arms):
        return body, 0.0
    # From the legend's top edge down: it stands below everything else.
    cut = float(legend.get_window_extent().y1 / figure.bbox.height)
    size = re.search(r'<svg [^>]*?viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    if size is None or not 0 < cut < 0.5:
        return body, 0.0
    width, height = float(size[1]), float(size[2]) * (1 - cut)
    body = re.sub(r'(<svg [^>]*?)height="[^"]*"', rf'\1height="{height:.1f}pt"', body, count=1)
    body = re.sub(r'viewBox="[^"]*"', f'viewBox="0 0 {width:g} {height:.1f}"', body, count=1)
    return body, cut


def _panels(figure: Figure, height: float) -> Iterator[dict[str, object]]:
    """Yield each panel's place and lines; `height` is the share of the figure's that is shown, from the top."""
    for axes in figure.axes:
        lines = list(_lines(axes)) if axes.get_visible() else []
        if lines:
            place = axes.get_position()
            yield {
                "box": [
                    round(place.x0, 4),
                    round((1 - place.y1) / height, 4),
                    round(place.x1, 4),
                    round((1 - place.y0) / height, 4),
                ],
                "x": [float(f"{v:.5g}") for v in axes.get_xlim()],
                "log": axes.get_xscale() == "log",
                "lines": lines,
            }


def _lines(axes: Axes) -> Iterator[list[object]]:
    for artist in axes.get_children():
        gid = str(artist.get_gid() or "")
        # The raw line behind a smoothed one would be read twice.
        if not isinstance(artist, Line2D) or not gid.startswith(ARM_MARK):
            continue
        x, y = np.asarray(artist.get_xdata(), float), np.asarray(artist.get_ydata(), float)
        if artist.get_alpha() == RAW or not len(x):
            continue
        some = np.unique(np.linspace(0, len(x) - 1, min(POINTS, len(x))).astype(int))
        known = some[np.isfinite(x[some]) & np.isfinite(y[some])]
        if len(known):
            pair = [[float(f"{v:.3g}") for v in values[known]] for values in (x, y)]
            yield [gid.removeprefix(ARM_MARK), *pair]


def _json(panels: list[dict[str, object]]) -> str:
    # A closing tag inside a script would end it.
    return json.dumps(panels, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def colour_of(looks: Looks, arm: str) -> str:
    """Give an arm's colour as the page writes it."""
    return f"var({colour_name(looks[arm].colour)})" if arm in looks else "var(--soft)"

"""The figures of the report in reading order: for each, its numbers, its drawing and its words.

A figure is one entry of `PLANS`; the page shows it in the section that it names, and says `absent` where
its data is empty. Numbers come from `alpkit.analysis.plotted*`, drawings from `alpkit.analysis.figures*`, descriptions
for those who cannot see from `alpkit.analysis.alts`.
"""

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import pandas as pd

from alpkit.analysis import (
    alts,
    figures,
    figures_cells,
    figures_tails,
    plotted,
    plotted_cells,
    plotted_tails,
)
from alpkit.analysis.frames import GridFrame
from alpkit.analysis.style import Look

Place = Literal["Results", "The ratio", "Corrections", "Noise", "Layers and sites", "All cells"]

_SEEDS: Final = (
    "Lines: mean over finished seeds; bands and bars: their 95 % t interval from three seeds on, their "
    "range below. Runs of more than 200 steps are averaged over windows first."
)
_NO_RECORDS: Final = "no finished cell has token records to draw it from."


class Plan(NamedTuple):
    """A figure before it is drawn; `name` is its files' name, `alt` is written from its data."""

    name: str
    section: Place
    title: str
    data: Callable[[GridFrame], pd.DataFrame]
    sheet: Callable[[pd.DataFrame, dict[str, Look]], Any]
    alt: Callable[[GridFrame, pd.DataFrame], str]
    caption: str
    absent: str
    """Why there is no figure where the data is empty; follows the title and a colon."""


PLANS: Final[list[Plan]] = [
    Plan(
        "dynamics",
        "Results",
        "Training dynamics",
        plotted.dynamics_frame,
        figures.dynamics_sheet,
        alts.dynamics,
        f"{_SEEDS} Thin dashes: single cells that have not finished. Crosses: spikes of single cells. "
        "Gradient norm and K3 on logarithmic axes.",
        "no cell has logged a step.",
    ),
    Plan(
        "passk",
        "Results",
        "pass@k",
        plotted.pass_frame,
        figures_cells.pass_sheet,
        alts.passk,
        f"Held-out items; pass@1 is estimated from the same k samples. Right: mean of each cell's last "
        f"evaluations. What pass@k keeps above pass@1 is diversity. {_SEEDS}",
        "no finished cell was evaluated with samples, or the arms were with different k.",
    ),
    Plan(
        "envelope",
        "The ratio",
        "Envelope of the log ratio",
        plotted_tails.envelope_frame,
        figures.envelope_sheet,
        alts.envelope,
        "Shade: P2 to P98 of log π_θ − log µ, unperturbed, in up to 50 bins of equal count; line: "
        "median. Dashes, for arms with noise: the same with the noise on, the ratio that their loss "
        "sees. Below: the response's summed log ratio at its mean log µ. All panels of a row share "
        "their axes. Pooled over finished seeds and recorded steps; beyond 262,144 items a uniform "
        "sample of so many.",
        _NO_RECORDS,
    ),
    Plan(
        "ccdf",
        "The ratio",
        "Tail of the ratio and of its inverse",
        plotted_tails.ccdf_frame,
        figures.ccdf_sheet,
        alts.ccdf,
        "Band: 90 % bootstrap over prompts. A straight line would be a power law, but looks alike "
        "for a log-normal: read it with k̂ and the Q-Q plot. Where the band reaches the bottom, single "
        "prompts decide. Floor: two equal policies whose log-probs are each rounded to that dtype (the "
        "first arm's tokens, errors uniform within half a unit in the last place); rounded logits and "
        "activations give more. What lies near it is arithmetic, not policy.",
        _NO_RECORDS,
    ),
    Plan(
        "hill",
        "The ratio",
        "Hill stability",
        plotted_tails.hill_frame,
        figures_tails.hill_sheet,
        alts.hill,
        "Hill estimate of the tail shape ξ over the number of largest items that it uses; band: 90 % "
        "bootstrap over prompts. A power law shows as a plateau; a curve that keeps rising with k has no "
        "single ξ. Triangles on top: where k̂ and the table's Hill take their tail.",
        _NO_RECORDS,
    ),
    Plan(
        "qq",
        "The ratio",
        "Tail against a power law (Q-Q)",
        plotted_tails.qq_frame,
        figures_tails.qq_sheet,
        alts.qq,
        "Log excesses over the threshold of k̂'s tail against the exponential, tokens. A power law is the "
        "dashed line and stays in the shade (90 % of such samples, pointwise, independent items); a line "
        "that bends down is a lighter tail. r: correlation of the points.",
        "no arm's token tail has the points and the spread for one.",
    ),
    Plan(
        "khat",
        "The ratio",
        "k̂ over steps",
        plotted_tails.khat_frame,
        figures_tails.khat_sheet,
        alts.khat,
        "Pale line: each step's own k̂, mean over finished seeds. Points: k̂ of up to 12 recorded steps, "
        "seeds pooled, with the 90 % bootstrap over prompts, set side by side. Above the dashed 0.7 a "
        "mean of the ratios cannot be trusted at any sample size.",
        "no finished cell logged a k̂; tails were flat or short throughout.",
    ),
    Plan(
        "factors",
        "The ratio",
        "What the ratio is made of",
        plotted_tails.factors_frame,
        figures_tails.factors_sheet,
        alts.factors,
        f"Mismatch π_old/µ, staleness π_θ/π_old, perturbation π_θ,δ/π_θ (arms with noise). Above: width of "
        f"each factor's token log ratio. Below: its mean share of the total log ratio over the 1 % "
        f"largest tokens of up to 12 recorded steps, seeds pooled; shares of an arm add to 1. {_SEEDS}",
        "no finished cell logged the ratio's factors.",
    ),
    Plan(
        "removed",
        "Corrections",
        "What the corrections removed",
        plotted.removed_frame,
        figures_cells.removed_sheet,
        alts.removed,
        f"Shares of the importance weight (first panel, where present) and of the response tokens. Kinds "
        f"that never acted in any arm are left out. {_SEEDS}",
        "no correction touched a token in any finished cell.",
    ),
    Plan(
        "sigma",
        "Noise",
        "σ per layer",
        plotted.sigma_frame,
        figures_cells.sigma_sheet,
        alts.sigma,
        "Noise scale of each perturbed layer at the end of each step, mean over finished seeds; all panels "
        "on one colour scale. Layers without noise are blank.",
        "no finished cell has noise in its layers.",
    ),
    Plan(
        "layers_intervals",
        "Layers and sites",
        "Layer subsets",
        plotted_cells.layers_frame,
        figures_cells.ablation_sheet,
        alts.ablation,
        "Arms that differ in their layers alone. Point: mean over finished seeds; bar: 95 % t interval "
        "from three seeds on, range below. Shaded: their control without noise.",
        "no two arms differ in their layers alone.",
    ),
    Plan(
        "sites_intervals",
        "Layers and sites",
        "Sites",
        plotted_cells.sites_frame,
        figures_cells.ablation_sheet,
        alts.ablation,
        "Arms that differ in the noise's site alone. Point: mean over finished seeds; bar: 95 % t interval "
        "from three seeds on, range below. Shaded: their control without noise.",
        "no two arms differ in the noise's site alone.",
    ),
    Plan(
        "score",
        "All cells",
        "Final score against tail heaviness",
        plotted_cells.score_frame,
        figures_cells.score_sheet,
        alts.score,
        "One point per finished cell. Arms differ in more than their tails, so a slope across arms is no "
        "cause; look for it within one colour.",
        "no finished cell has both a score and a tail.",
    ),
]

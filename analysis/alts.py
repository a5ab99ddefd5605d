"""What each figure shows, in words with numbers, for those who cannot see it; written from its data."""

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.plotted import REMOVED, SPIKE_SERIES
from alpkit.analysis.plotted_cells import ENDPOINTS
from alpkit.analysis.text import row_dicts


def dynamics(frame: GridFrame, data: pd.DataFrame) -> str:
    """Ends of the accuracy, number of spikes."""
    ends = [
        f"{arm} {_range(frame.finished.loc[frame.finished['arm'] == arm, 'eval_greedy'])}"
        for arm in frame.arms
    ]
    spikes = int((data["series"] == SPIKE_SERIES).sum())
    return (
        "Reward, greedy accuracy, entropy, gradient norm, K1 and K3 over steps, one line per arm. "
        f"Greedy accuracy at the end, lowest to highest seed: {'; '.join(ends)}. Spikes marked: {spikes}."
    )


def passk(frame: GridFrame, data: pd.DataFrame) -> str:
    """Both ends of every arm's curve."""
    last = data[data["when"] == "last"]
    ends = [
        f"{row['arm']} {row['mean']:.3f} at k = {row['k']}"
        for row in row_dicts(last.sort_values("k", kind="stable"))
    ]
    return (
        f"pass@k over steps and at the end, one line per arm. Last evaluations: {'; '.join(ends)}."
    )


def envelope(frame: GridFrame, data: pd.DataFrame) -> str:
    """Width of the token envelope at its low-probability end."""
    tokens = data[(data["level"] == "token") & (data["ratio"] == "raw")]
    lowest = tokens.groupby("arm", sort=False).first()
    widths = [f"{arm} {row.p98 - row.p02:.2f}" for arm, row in lowest.iterrows()]
    return (
        "P2 to P98 of the log ratio against log µ, a column per arm; tokens above, whole responses "
        f"below. Width in nats where µ is lowest, tokens: {'; '.join(widths)}."
    )


def ccdf(frame: GridFrame, data: pd.DataFrame) -> str:
    """Largest ratio of every arm."""
    tokens = data[(data["level"] == "token") & (data["side"] == "right")]
    tokens = tokens[tokens["arm"].isin(frame.arms)]
    tops = [f"{arm} {part['z'].max():.1f}" for arm, part in tokens.groupby("arm", sort=False)]
    return (
        "Share of ratios above z on log-log axes, one line per arm over the floor of rounding; ratio "
        f"left, inverse right, tokens above, responses below. Largest z drawn for tokens: {'; '.join(tops)}."
    )


def hill(frame: GridFrame, data: pd.DataFrame) -> str:
    """Range of every arm's curve over the larger half of k."""
    tokens = data[(data["level"] == "token") & (data["side"] == "right")]
    spans = [
        f"{arm} {_range(part.loc[part['k'] >= 30, 'hill'])}"
        for arm, part in tokens.groupby("arm", sort=False)
    ]
    return (
        "Hill estimate over the number of largest items used, one line per arm. Token ratio, lowest to "
        f"highest from 30 items on: {'; '.join(spans)}."
    )


def qq(frame: GridFrame, data: pd.DataFrame) -> str:
    """Straightness of every arm's points."""
    rights = data[data["side"] == "right"].groupby("arm", sort=False).first()
    straight = [f"{arm} {row.linearity:.3f}" for arm, row in rights.iterrows()]
    return (
        "Log excesses of the token ratio and its inverse against exponential quantiles, a column per arm. "
        f"Correlation of the ratio's points, 1 for a power law: {'; '.join(straight)}."
    )


def khat(frame: GridFrame, data: pd.DataFrame) -> str:
    """Range of every arm's recorded k-hat."""
    tokens = data[(data["level"] == "token") & (data["side"] == "right")]
    points = tokens[tokens["source"] == "records"]
    points = points if len(points) else tokens
    spans = [f"{arm} {_range(part['khat'])}" for arm, part in points.groupby("arm", sort=False)]
    return (
        "k̂ over steps with a line at 0.7, ratio and inverse, tokens above, responses below. Token ratio, "
        f"lowest to highest: {'; '.join(spans)}."
    )


def factors(frame: GridFrame, data: pd.DataFrame) -> str:
    """Mean width of every factor and arm."""
    std = data[data["quantity"] == "std"]
    means = std.groupby(["factor", "arm"], sort=False)["value"].mean().reset_index()
    parts = [f"{row.factor} of {row.arm} {row.value:.3f}" for row in means.itertuples()]
    return (
        "Standard deviation of the log ratio's factors over steps, and their share in its tail. Mean over "
        f"steps, nats: {'; '.join(parts)}."
    )


def removed(frame: GridFrame, data: pd.DataFrame) -> str:
    """Mean share of everything that acted."""
    means = data.groupby(["metric", "arm"], sort=False)["mean"].mean().reset_index()
    parts = [
        f"{row['arm']}, {REMOVED[row['metric'].removeprefix('receipt/')]}: {100 * row['mean']:.2g} %"
        for row in row_dicts(means[means["mean"] > 0])
    ]
    return f"What each correction took over steps, a panel per kind. Mean over steps: {'; '.join(parts)}."


def sigma(frame: GridFrame, data: pd.DataFrame) -> str:
    """First and last sigma of every arm."""
    parts = []
    for arm, part in data.groupby("arm", sort=False):
        first, last = (
            part[part["step"] == step]["sigma"] for step in (part["step"].min(), part["step"].max())
        )
        parts.append(f"{arm} {_range(first)} at the start, {_range(last)} at the end")
    return f"Heat map of σ over steps and layers. Lowest to highest layer: {'; '.join(parts)}."


def ablation(frame: GridFrame, data: pd.DataFrame) -> str:
    """The first endpoint's mean per setting."""
    first = next(name for name in ENDPOINTS if (data["endpoint"] == name).any())
    means = [
        f"{row['setting']} {row['mean']:.3f}" for row in row_dicts(data[data["endpoint"] == first])
    ]
    return (
        "Means and intervals over seeds per setting of the noise, a panel per endpoint. "
        f"Mean {ENDPOINTS[first]}: {'; '.join(means)}."
    )


def score(frame: GridFrame, data: pd.DataFrame) -> str:
    """Rank correlations."""
    known = data.dropna(subset=["rho"]).groupby("heaviness", sort=False)["rho"].first()
    parts = [f"{name} {rho:+.2f}" for name, rho in known.items()]
    rho = f" Spearman's ρ: {'; '.join(parts)}." if parts else ""
    return f"Final score against three measures of tail heaviness, a point per finished cell.{rho}"


def _range(values: "pd.Series[float]") -> str:
    values = values.dropna()
    return f"{values.min():.3f} to {values.max():.3f}" if len(values) else "none"

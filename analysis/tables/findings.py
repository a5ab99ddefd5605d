"""Say in words and numbers what each arm changed against its control, or why that cannot be said.

A claim is made from a verdict of `alpkit.analysis.seeds.verdicts` and from nothing else; what the records and the spike
detector saw is told beside it as what it is, an observation.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args

import pandas as pd

from alpkit.analysis.frames import GridFrame
from alpkit.analysis.pairs import Pair
from alpkit.analysis.seeds.verdicts import ENDPOINTS, LABELS, SHORT, Topic, Verdict
from alpkit.analysis.spike_frame import SpikeLog
from alpkit.analysis.tables import Table
from alpkit.analysis.tables.receipt import idle
from alpkit.analysis.text import number, signed_points, with_bounds
from alpkit.config.grid.comparisons import MIN_SEEDS, Kind

State = Literal["changed", "not told apart", "cannot be said"]
TOPICS: Final[tuple[Topic, ...]] = get_args(Topic)
_TOPIC: Final = {endpoint.column: endpoint.topic for endpoint in ENDPOINTS}


class Claim(NamedTuple):
    """The answer to one question about one arm; `brief`: what changed by how much."""

    topic: Topic
    state: State
    words: str
    brief: str = ""


class Finding(NamedTuple):
    """An arm against its control: an answer per topic, and what limits all of them."""

    arm: str
    control: str
    kind: Kind
    differs: tuple[str, ...]
    claims: tuple[Claim, ...]
    limits: tuple[str, ...]


def findings(
    frame: GridFrame,
    pairs: Sequence[Pair],
    found: Sequence[Verdict],
    tails: pd.DataFrame,
    spikes: SpikeLog,
) -> list[Finding]:
    """Make a finding for each compared pair, in the pairs' order."""
    left_undone = idle(frame)
    result = []
    for pair in pairs:
        own = [v for v in found if (v.arm, v.control) == (pair.arm, pair.control)]
        claims = [
            _claim(topic, [v for v in own if _TOPIC[v.endpoint] == topic]) for topic in TOPICS
        ]
        if pair.kind not in ("layers", "site"):
            seen = {
                "tail heaviness": _tails_seen(pair, tails),
                "KL spikes": _spikes_seen(pair, spikes),
            }
            claims = [
                c._replace(words=f"{c.words} {seen.get(c.topic, '')}".strip()) for c in claims
            ]
        limits = [
            *_limits(frame, pair, tails, spikes),
            *(str(i) for i in left_undone if i.arm == pair.arm),
        ]
        result.append(Finding(*pair[:4], tuple(claims), tuple(limits)))
    return result


def findings_table(found: Sequence[Finding]) -> Table:
    """Lay out the answers at a glance: a row per comparison, a column per question."""
    data = pd.DataFrame(
        [
            {"arm": f.arm, "against": f.control}
            | {c.topic: f"{c.state}: {c.brief}" if c.brief else c.state for c in f.claims}
            | {"differs in": ", ".join(f.differs)}
            for f in found
        ]
    )
    caption = (
        "Changed: beyond seed noise (paired t over seeds, Holm over all comparisons × endpoints, "
        "adjusted p < 0.05), with arm − control of what is. Not told apart: tested, and the seeds do "
        "not tell it from noise. Cannot be said: no test was possible; the reasons are below."
    )
    return Table("findings", "Findings", caption, data, data.astype(str))


def _claim(topic: Topic, own: Sequence[Verdict]) -> Claim:
    tested = [v for v in own if v.tested]
    beyond = [v for v in tested if v.beyond_noise]
    if beyond:
        words = " ".join(f"{_first_upper(LABELS[v.endpoint])} {v.words}" for v in own)
        brief = ", ".join(f"{SHORT[v.endpoint]} {v.difference:+.2g}" for v in beyond)
        return Claim(topic, "changed", words, brief)
    if tested:
        sizes = "; ".join(
            f"{LABELS[v.endpoint]} {v.difference:+.3g} [{v.low:+.3g}, {v.high:+.3g}], "
            f"Holm p = {v.p_holm:.2g}"
            for v in tested
        )
        least = _and([f"{v.detectable:.2g}" for v in tested])
        n = min(len(v.points) for v in tested)
        power = f"Four times in five these {n} seeds would find a difference of {least}."
        return Claim(topic, "not told apart", f"{_first_upper(sizes)}. {power}")
    if not own:
        return Claim(topic, "cannot be said", f"No shared finished seed has {_names(topic)}.")
    n = max(len(v.points) for v in own)
    seen = "; ".join(f"{LABELS[v.endpoint]} {signed_points(v.points)}" for v in own)
    if any(v.status == "few" for v in own):
        why = f"{n} shared finished seed{'s' if n > 1 else ''}, a test needs {MIN_SEEDS}"
    elif any(v.status == "unlisted" for v in own):
        why = "Not among the tests that the grid's file names"
    else:
        why = "No spread over seeds to test against"
    return Claim(topic, "cannot be said", f"{why}. Seen: {seen}.")


def _names(topic: Topic) -> str:
    return " or ".join(e.label for e in ENDPOINTS if e.topic == topic)


def _tails_seen(pair: Pair, tails: pd.DataFrame) -> str:
    """Say the records' k̂ on both sides of the comparison, of tokens and of whole responses."""
    parts = []
    for level, name in (("token", "tokens"), ("product", "responses (product)")):
        rows = [_tail(tails, arm, level) for arm in (pair.arm, pair.control)]
        if all(row is not None for row in rows):
            ours, theirs = (_khat(row) for row in rows if row is not None)
            parts.append(f"{name} {ours}; {pair.control} {theirs}")
    if not parts:
        return ""
    trust = " High: means of such ratios cannot be trusted." if ", high" in "".join(parts) else ""
    return f"k̂ of the recorded ratio: {'. '.join(parts)}.{trust}"


def _khat(row: "pd.Series") -> str:
    return f"{with_bounds(row['khat'], row['khat_low'], row['khat_high'], 2)}, {row['status']}"


def _spikes_seen(pair: Pair, log: SpikeLog) -> str:
    """Count the spikes of K3 on both sides, and say where they were."""
    words = []
    for arm in (pair.arm, pair.control):
        if arm not in log.rates:
            return ""
        count, steps = log.rates[arm]
        rows = log.rows[(log.rows["arm"] == arm) & log.rows["metric"].str.startswith("kl/")]
        rows = rows.sort_values("z", ascending=False).drop_duplicates(["seed", "step"])
        first = [
            f"step {step} of seed {seed}, z = {number(z, 1)}"
            for step, seed, z in zip(rows["step"], rows["seed"], rows["z"])
        ]
        places = f" ({'; '.join(first[:3])}{'; …' if len(first) > 3 else ''})" if first else ""
        rate = f"{1000 * count / steps:.0f} per 1,000"
        words.append(
            f"{count} in {steps} judged steps, {rate}{places}" if count else f"none in {steps}"
        )
    return f"Spikes of K3: {words[0]}; {pair.control}: {words[1]}."


def _limits(frame: GridFrame, pair: Pair, tails: pd.DataFrame, spikes: SpikeLog) -> list[str]:
    limits = []
    if pair.confounded:
        limits.append(
            f"Confounded: {pair.arm} and {pair.control} differ in {_and(pair.differs)} at once, so a "
            "difference belongs to the whole and to none of these alone."
        )
    sigma = frame.cells.loc[frame.cells["arm"] == pair.arm, "sigma"]
    if pair.kind in ("layers", "site") and sigma.notna().any():
        limits.append(
            "At equal sigma: other layers or another site also mean more or less noise in the "
            "log-probs. perturbation.sigma.target_ratio_std sets the amount equal."
        )
    for arm in (pair.arm, pair.control):
        row = _tail(tails, arm, "token")
        if row is not None and row["status"] in ("flat", "short", "saturated"):
            limits.append(
                f"{arm}: the recorded token ratio's tail is {row['status']}, so it has no k̂."
            )
        if row is None and arm in set(frame.finished["arm"]):
            limits.append(
                f"{arm}: no token records, so its tail is known from the step metrics alone."
            )
        if arm not in spikes.rates and arm in set(frame.finished["arm"]):
            limits.append(
                f"{arm}: its runs are too short for the spike detector (16 steps of history)."
            )
    return limits


def _tail(tails: pd.DataFrame, arm: str, level: str) -> "pd.Series | None":
    """Give the right tail's row of an arm at a level."""
    if tails.empty:
        return None
    rows = tails[(tails["arm"] == arm) & (tails["level"] == level) & (tails["side"] == "right")]
    return rows.iloc[0] if len(rows) else None


def _first_upper(text: str) -> str:
    return text if text.startswith("k̂") else text[:1].upper() + text[1:]


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""Gather the results of a replay: rows, obstacles, notes."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import pandas as pd

from alpkit.errors import ConfigError
from alpkit.replay.inputs import Cell
from alpkit.replay.methods import Method
from alpkit.runs.imported import ABSENCES

Row = dict[str, object]
"""One row of a frame: column to value."""

FRAMES: Final[dict[str, list[str]]] = {
    "methods": ["step", "method", "own", "loss"],
    "overlap": ["step", "of", "method", "other", "both", "either", "jaccard"],
    "gradients": ["step", "method", "own", "norm", "cosine_on_policy", "variance"],
    "cosines": ["step", "method", "other", "cosine"],
    "logged": ["step", "metric", "logged", "replayed", "equal"],
}
"""The frames of a replay, with the columns that one without rows has."""


@dataclass(frozen=True)
class Replay:
    """The results of a replay; every frame has a row per step and method (or pair of methods).

    `methods`: loss, shares of tokens and responses `removed` by weight or rejection and of tokens
    `mute` (an advantage, no gradient), share of removed tokens whose response was right (`removed_solved`:
    reward of 1 or more), quantiles and ESS (a share) of ratio and applied weight, the
    `receipt/*` of docs/metrics.md. Weight quantiles are over weights above 0; the ESS counts zeros.
    `overlap`: `jaccard` of what two methods remove or mute; NaN where neither touches anything.
    `gradients`, `cosines`: of the step's first update, see `alpkit.replay.gradients`; empty where the
    policy is not at hand. `logged`: the run's own method against its metrics. `tokens`: every token
    under every method, where asked for. `notes`: what could not be replayed.
    """

    cell: Cell
    methods: pd.DataFrame
    overlap: pd.DataFrame
    gradients: pd.DataFrame
    cosines: pd.DataFrame
    logged: pd.DataFrame
    tokens: pd.DataFrame | None
    notes: tuple[str, ...]

    @property
    def equals_logged(self) -> bool | None:
        """Whether the replay of the run's own method equals what was logged; None where nothing can be compared."""
        return bool(self.logged["equal"].all()) if len(self.logged) else None


class Gap(NamedTuple):
    """Largest |recomputed - recorded| log-prob of a step's first update, nats, and what rounding may do."""

    step: int
    numerator: str
    largest: float
    tolerance: float


class Book:
    """Gathers rows as they come in, and notes of what could not be replayed."""

    def __init__(self, cell: Cell, compared: Sequence[Method]) -> None:
        self.cell, self.compared = cell, compared
        self.rows: dict[str, list[Row]] = {name: [] for name in FRAMES}
        self.tokens: list[pd.DataFrame] = []
        self._notes: dict[str, None] = {}
        self._obstacles: dict[tuple[str, str], list[int]] = {}
        if cell.imported is not None:
            self.note("an imported run: every method is given the recorded advantages")
            for lacking in cell.imported.absent:
                self.note(f"its dump lacks {ABSENCES[lacking]}")
        if cell.config.objective.reference_kl.coef > 0:
            self.note(
                "the pull to the reference policy (reference_kl) is left out of every method and the "
                "logged loss is not compared: its log-probs are not recorded"
            )

        if cell.config.objective.entropy_bonus > 0:
            self.note(
                "the entropy bonus (entropy_bonus) is left out of every method and the logged loss is not compared: "
                "the gradient of the entropy is not recorded"
            )

    def note(self, text: str) -> None:
        """Add a note, once."""
        self._notes.setdefault(text)

    def note_gaps(self, gaps: Sequence[Gap]) -> None:
        """Add a note where the model's log-probs are too far from the recorded ones."""
        for gap in gaps:
            if not gap.largest <= gap.tolerance:
                self.note(
                    f"warning: at step {gap.step} the model gives {gap.numerator} up to {gap.largest:.3g} "
                    f"nats away from the records (rounding makes at most {gap.tolerance:g}): gradients "
                    "are of another policy than the run's"
                )

    def replayable(self, step: int, columns: Collection[str], *, signed: bool) -> list[Method]:
        """List the methods whose weights follow from what `step` recorded; `signed`: its advantages too."""
        usable = []
        for method in self.compared:
            run = self.cell.config
            if self.cell.imported is None:
                obstacle = method.obstacle(columns, run)
            else:
                obstacle = method.obstacle(columns, run, absent="the dump lacks it, or log mu")
            if not obstacle and not signed and method.by_sign:
                obstacle = "it treats tokens by the sign of their advantage, which was not recorded"
            if obstacle:
                self._obstacles.setdefault((method.name, obstacle), []).append(step)
            else:
                usable.append(method)
        return usable

    def differentiable(self, columns: Collection[str]) -> list[Method]:
        """List the methods whose gradient the model gives, with pi_old from the records."""
        return [
            method
            for method in self.compared
            if ("logp_old" in columns or not method.objective.needs_logp_old)
            and not method.centred
            and self._has_sigma(method)
        ]

    def _has_sigma(self, method: Method) -> bool:
        noise = method.perturbation
        if noise is None or noise == self.cell.config.perturbation:
            return True
        if noise.sigma.init is None:
            self.note(
                f"{method.name} has no gradient: its sigma is sought by target_ratio_std, which only a "
                "run of it does"
            )
            return False
        self.note(
            f"{method.name}: gradients at sigma {noise.sigma.init:g}, where it starts; this run learned "
            "none for it"
        )
        return True

    def to_replay(self, *, tokens: bool) -> Replay:
        """Make the frames; `ConfigError` for a named method that left no row anywhere."""
        seen = {row["method"] for name in ("methods", "gradients") for row in self.rows[name]}
        for (name, obstacle), steps in self._obstacles.items():
            if name not in seen and any(m.name == name and not m.own for m in self.compared):
                raise ConfigError(
                    f"{name} cannot be replayed",
                    where=str(self.cell.folder),
                    why=f"{_steps(steps)}: {obstacle}",
                    fix="leave it out, or run the cell with records.replay: true and diagnostics.every: 1"
                    if self.cell.imported is None
                    else "leave it out, or import a dump that has what it needs",
                )
            self.note(f"{name} is not replayed from the records of {_steps(steps)}: {obstacle}")
        kept = pd.concat(self.tokens, ignore_index=True) if tokens else None
        frames = {
            name: pd.DataFrame(rows) if rows else pd.DataFrame(columns=FRAMES[name])
            for name, rows in self.rows.items()
        }
        return Replay(cell=self.cell, tokens=kept, notes=tuple(self._notes), **frames)


def _steps(steps: Sequence[int]) -> str:
    return f"step{'s' if len(steps) > 1 else ''} {', '.join(map(str, steps))}"

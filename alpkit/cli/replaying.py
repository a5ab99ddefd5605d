"""`alpkit replay`: apply other corrections to a run's recorded batches."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alpkit.cli.layout import Column, TextTable
from alpkit.cli.output import note, print_json, print_table
from alpkit.errors import ConfigError

if TYPE_CHECKING:
    from alpkit.replay import Replay
    from alpkit.replay.report import Pooled

_METHODS = {
    "loss": "loss",
    "removed": "removed",
    "removed_responses": "responses",
    "removed_solved": "of it solved",
    "receipt/advantage_removed": "|A| removed",
    "receipt/weight_removed": "weight cut",
    "mute": "mute",
    "receipt/surviving": "surviving",
    "weight_ess": "weight ESS",
    "weight_max": "max",
    "ratio_ess": "ratio ESS",
    "ratio_p02": "p02",
    "ratio_p98": "p98",
}
_GRADIENTS = {
    "norm": "norm",
    "on_policy_norm": "on-policy norm",
    "cosine_on_policy": "cosine to on-policy",
    "relative_variance": "variance / norm²",
    "micro_batches": "micro-batches",
}
_SHARES = {key for key in _METHODS if key not in ("loss", "weight_max", "ratio_p02", "ratio_p98")}
_OVERLAPS = {
    "removed": "overlap of what weight and rejection remove (Jaccard)",
    "mute": "overlap of what has an advantage and no gradient (Jaccard)",
}


def replay(
    run_id: str,
    methods: str,
    steps: Sequence[int] | None,
    gradients: bool | None,
    policy: Path | None = None,
    *,
    as_json: bool,
) -> None:
    """Replay, write `reports/<id>-replay/`, and print the numbers pooled over steps."""
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        raise ConfigError(
            "names no method",
            where="--methods",
            fix="give presets or YAML files: --methods grpo,token-tis",
        )
    # Heavy (pandas, torch), so only once there is something to do.
    import alpkit.replay as room

    found = room.replay(run_id, names, steps=steps or None, gradients=gradients, policy=policy)
    written = room.write(found)
    if as_json:
        print_json(
            {**room.as_json(found), "report": str(written.folder), "replaced": written.replaced}
        )
    else:
        for number, table in enumerate(_tables(room.pooled(found), found.cell.arm)):
            if number:
                print()
            print_table(table)
    for text in found.notes:
        note(text if text.startswith("warning: ") else f"note: {text}")
    note(_verdict(found))
    note(f"{written.folder}{' (replaced an earlier replay)' if written.replaced else ''}")


def _verdict(found: "Replay") -> str:
    if found.equals_logged is None:
        return "the run's own method could not be compared with what was logged"
    rows = found.logged
    if found.equals_logged:
        return f"at the run's own settings the replay is what was logged: {len(rows)} numbers"
    worst = rows[~rows["equal"]].iloc[0]
    return (
        f"warning: at the run's own settings {int((~rows['equal']).sum())} of {len(rows)} numbers are not "
        f"what was logged, first {worst['metric']} at step {worst['step']}: logged {worst['logged']:.6g}, "
        f"replayed {worst['replayed']:.6g}"
    )


def _tables(numbers: "Pooled", arm: str) -> list[TextTable]:
    rows = (*numbers["methods"], *numbers["gradients"])
    own = {str(row["method"]) for row in rows if row["own"]}
    names = {
        name: f"{name} ({arm}, as run)" if name == "own" else f"{name} (as run)" for name in own
    }
    tables = [_rows("on the recorded tokens, means over {}", numbers["methods"], _METHODS, names)]
    for of, title in _OVERLAPS.items():
        matrix = numbers["overlap"].get(of, {})
        if any(value is not None for row in matrix.values() for value in row.values()):
            tables.append(_matrix(title, matrix, names))
    if numbers["gradients"]:
        title = "gradients of the first update, means over {}"
        tables.append(_rows(title, numbers["gradients"], _GRADIENTS, names))
        tables.append(_matrix("cosines of gradients", numbers["cosines"], names))
    return [table for table in tables if table.rows]


def _rows(
    title: str,
    rows: Sequence[Mapping[str, object]],
    columns: Mapping[str, str],
    names: Mapping[str, str],
) -> TextTable:
    used = {
        key: text for key, text in columns.items() if any(row.get(key) is not None for row in rows)
    }
    steps = max((int(str(row["steps"])) for row in rows), default=0)
    texts = [
        [
            names.get(str(row["method"]), str(row["method"])),
            *(_text(row.get(key), share=key in _SHARES) for key in used),
        ]
        for row in rows
    ]
    return _table(title.format("1 step" if steps == 1 else f"{steps} steps"), used.values(), texts)


def _matrix(
    title: str, matrix: Mapping[str, Mapping[str, object]], names: Mapping[str, str]
) -> TextTable:
    rows = [
        [names.get(name, name), *(_text(row.get(other)) for other in matrix)]
        for name, row in matrix.items()
    ]
    return _table(title, list(matrix), rows)


def _table(title: str, columns: Iterable[str], rows: Sequence[Sequence[str]]) -> TextTable:
    heads = [Column("method"), *(Column(name, right=True) for name in columns)]
    return TextTable(heads, rows, title)


def _text(value: object, *, share: bool = False) -> str:
    if not isinstance(value, int | float):
        return "–"
    return f"{100 * value:.3g} %" if share else f"{value:.4g}"

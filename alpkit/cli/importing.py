"""`alpkit import`: turn another trainer's dump into a run folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alpkit.cli.output import note, out, print_json
from alpkit.errors import ConfigError

if TYPE_CHECKING:
    from alpkit.integrations.importing import Known


def mapping_of(pairs: Sequence[str]) -> dict[str, str]:
    """Read `OURS=THEIRS` pairs; `ConfigError` for one that is no pair, or a column of ours twice."""
    mapping: dict[str, str] = {}
    for pair in pairs:
        ours, sign, theirs = pair.partition("=")
        if not (ours and sign and theirs) or ours in mapping:
            raise ConfigError(
                f"{pair!r} names {ours!r} a second time"
                if ours in mapping
                else f"{pair!r} is no pair",
                where="--map",
                fix="write OURS=THEIRS once per column: --map logp_rollout=sampler_logprobs",
            )
        mapping[ours] = theirs
    return mapping


def import_dump(source: Path, folder: Path, known: "Known", *, as_json: bool) -> None:
    """Import, and say what was read, what the dump lacks, and what to type next."""
    # Heavy (torch, pyarrow), so only once there is something to do.
    from alpkit.integrations.importing import import_run
    from alpkit.runs.imported import ABSENCES

    done = import_run(source, folder, known)
    if as_json:
        print_json(
            {
                "folder": str(done.folder),
                "trainer": done.imported.trainer,
                "steps": done.steps,
                "responses": done.responses,
                "tokens": done.tokens,
                "absent": {name: ABSENCES[name] for name in done.imported.absent},
            }
        )
    else:
        out().print(
            f"{done.folder}: {len(done.steps)} steps ({done.steps[0]}-{done.steps[-1]}), "
            f"{done.responses} responses, {done.tokens} tokens ({done.imported.trainer})"
        )
        for name in done.imported.absent:
            out().print(f"  the dump lacks {ABSENCES[name]}")
    note(f"read it with: alpkit analyze {done.folder.parent}")

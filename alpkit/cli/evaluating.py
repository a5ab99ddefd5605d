"""`alpkit eval`: evaluate a trained cell or a model on a task, outside of a run."""

from typing import TYPE_CHECKING, TypedDict, Unpack

from alpkit.cli.layout import plain
from alpkit.cli.output import note, print_json, print_table
from alpkit.config.files.yaml import parse_yaml
from alpkit.errors import ConfigError

if TYPE_CHECKING:
    from alpkit.diagnostics.passes import Mean


class Settings(TypedDict):
    """Options of the command, as `alpkit.trainer.examine.Asked` takes them, but for the task."""

    task: str | None
    items: int | None
    k: int | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    suffix: str | None
    system: str | None
    plain: bool
    batch: int
    seed: int | None


def read_task(text: str | None) -> dict[str, object] | None:
    """Read `--task`: a task's name, or its section as YAML."""
    if text is None:
        return None
    data = parse_yaml(text, "--task").data
    if isinstance(data, str):
        return {"name": data}
    if isinstance(data, dict):
        return data
    raise ConfigError(
        f"{text!r} is no task",
        where="--task",
        fix="give a name or a mapping: '{name: math, levels: [1]}'",
    )


def evaluate(what: str, *, as_json: bool, **settings: Unpack[Settings]) -> None:
    """Evaluate, and print scores with their intervals."""
    task = read_task(settings["task"])
    # Heavy (torch), so only once there is something to do.
    from alpkit.trainer.examine import Asked, examine

    asked = Asked(
        task=task,
        items=settings["items"],
        k=settings["k"],
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        max_tokens=settings["max_tokens"],
        suffix=settings["suffix"],
        system=settings["system"],
        plain=settings["plain"],
        batch=settings["batch"],
        seed=settings["seed"],
    )
    found = examine(what, asked)
    counts = found.evaluation.counts(found.step or 0, found.set.task.name, found.set.items)
    chosen = found.set
    if as_json:
        print_json(
            {
                "model": found.model,
                "step": found.step,
                "task": chosen.task.name,
                "items": len(chosen.items),
                "k": chosen.k,
                "temperature": chosen.temperature,
                "top_p": chosen.top_p,
                "max_tokens": chosen.max_tokens,
                "greedy": _mapping(found.greedy),
                "avg_at_k": _mapping(found.average),
                "pass_at_k": [_mapping(mean) for mean in found.passes],
                "solved": counts.solved,
                "greedy_solved": counts.greedy,
                **_graded(found.evaluation.metrics()),
            }
        )
        return
    powers = sorted({2**i for i in range(chosen.k.bit_length())} | {chosen.k})
    means = {"greedy": found.greedy, f"avg@{chosen.k}": found.average}
    means |= {f"pass@{k}": found.passes[k - 1] for k in powers}
    rows = [_row(name, mean) for name, mean in means.items()]
    print_table(plain(["score", "value", "95 % interval"], rows))
    step = "" if found.step is None else f" at step {found.step}"
    note(
        f"{found.model}{step} on {len(chosen.items)} items of {chosen.task.name}, {chosen.k} samples each at "
        f"temperature {chosen.temperature:g}; intervals are over problems"
    )
    if cut := _graded(found.evaluation.metrics()).get("timeouts"):
        note(f"warning: {cut:g} checks ran past their deadline and scored 0")


def _graded(metrics: dict[str, float]) -> dict[str, float]:
    return {key: metrics[key] for key in ("timeouts", "failures") if key in metrics}


def _mapping(mean: "Mean") -> dict[str, float | None]:
    parts = {"mean": mean.mean, "low": mean.low, "high": mean.high}
    return {key: value if value == value else None for key, value in parts.items()}


def _row(name: str, mean: "Mean") -> list[str]:
    known = mean.low == mean.low
    return [name, f"{mean.mean:.3f}", f"[{mean.low:.3f}, {mean.high:.3f}]" if known else "–"]

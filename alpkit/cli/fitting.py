"""Say what `alpkit plan` knows of memory: need, device, and the keys to change."""

from collections.abc import Iterable, Iterator, Sequence

from alpkit.launch.fitting import Fit

_GIB = 2**30
_NAMED = 4


def lines(found: Iterable[Fit]) -> Iterator[str]:
    """Yield a note, or a warning, for every group of arms that need the same."""
    for fit in found:
        arms = _named(fit.arms)
        if fit.needs is None:
            yield f"memory of {arms}: not known, as {fit.model} has no config.json here of a plain decoder"
            continue
        parts = ", ".join(
            f"{name} {_gib(size)}" for name, size in fit.needs.parts.items() if size >= _GIB / 20
        )
        about = "" if fit.exact else "roughly "
        need = f"memory of {arms}: {about}{_gib(fit.needs.total)} GiB a cell ({parts})"
        share = f"{_gib(fit.total)} of the {_gib(fit.device.bytes)} GiB of {fit.device.name}"
        cells = f"{fit.device.cells} at once" if fit.device.cells > 1 else "one at a time"
        if fit.holds:
            yield f"{need}; {cells} take {share}; prompts of {fit.prompt} tokens assumed"
        else:
            yield f"warning: {need}; {cells} would take {share}. {_advice(fit)}"


def _advice(fit: Fit) -> str:
    keys = "; ".join(
        f"{change.key}: {change.value} leaves {_gib(change.left)} GiB a cell"
        for change in fit.changes
    )
    fewer = "lower launch.jobs (or --jobs)" if fit.device.cells > 1 else "use a larger device"
    if fit.can_hold:
        return f"To change, in this order: {keys}"
    return f"To change: {keys}, which is not enough; {fewer}" if keys else f"To change: {fewer}"


def _named(arms: Sequence[str]) -> str:
    return (
        ", ".join(arms)
        if len(arms) <= _NAMED
        else f"{', '.join(arms[:_NAMED])} and {len(arms) - _NAMED} more"
    )


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"

"""Say about an imported run what its dump does not."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Trainer = Literal["auto", "prime-rl", "verl", "columns"]


@dataclass(frozen=True)
class Known:
    """Facts about an imported run that its dump does not hold; None: not known."""

    trainer: Trainer = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column -> the name that it has in the dump."""
    arm: str = ""
    seed: int = 0
    model: str | None = None
    objective: str | None = None
    """A preset or a method file (YAML): the loss that the run trained with."""
    max_tokens: int | None = None
    """The longest response that the run allowed."""
    temperature: float | None = None
    """The sampler's; gradients score the tokens again under it."""

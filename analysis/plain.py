"""Numbers and containers as JSON has them."""

import math
from typing import Any


def plain(value: Any) -> Any:
    """JSON's types only: numpy scalars unwrapped, NaN and infinities as null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

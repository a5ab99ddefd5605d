"""Find a model's folder by the name that a run gives it; imports no torch.

local_folder("builtin:tiny-addition")
"""

from pathlib import Path
from typing import Final

from alpkit.errors import ConfigError, PrerequisiteError

SHIPPED: Final = ("builtin:tiny-addition", "builtin:tiny-tool")
"""Models whose weights lie in the package; `alpkit/policy/assets` holds how each was made."""
BUILTINS: Final = (*SHIPPED, "builtin:smollm2-135m")

_ASSETS = Path(__file__).parent / "assets"


def local_folder(name: str) -> Path | None:
    """Resolve a builtin or a folder; None for what can only be a hub id."""
    if name in SHIPPED:
        return _ASSETS / name.removeprefix("builtin:")
    if name == "builtin:smollm2-135m":
        from alpkit.policy.smollm2 import materialise

        return materialise()
    if name.startswith("builtin:"):
        raise ConfigError(
            f"{name} is not a built-in model", where="model", fix=f"use {' or '.join(BUILTINS)}"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PrerequisiteError(
            f"model folder {name} does not exist",
            where="model",
            why="relative folders are looked up from the working directory",
            fix=f"correct the path, or use a hub id or {' or '.join(BUILTINS)}",
        )
    return None


def converted_folder(name: str) -> Path | None:
    """Resolve like `local_folder`, without converting a built-in: None where that is still to do."""
    if name == "builtin:smollm2-135m":
        from alpkit.policy.smollm2 import converted

        return converted()
    return local_folder(name)

"""The commands, their arguments and help texts; what each does is in the module that it calls.

Importing this package registers them, in the order of `alpkit --help`.
"""

# isort: off
from alpkit.cli.commands import grids, reports, policies, info

__all__ = ["grids", "info", "policies", "reports"]

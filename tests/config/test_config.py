"""What `alpkit.config` is to everyone else: its names, and what it does not import."""

import pkgutil
import subprocess
import sys

import alpkit.config


def test_no_module_of_config_imports_torch_or_diagnostics() -> None:
    modules = [m.name for m in pkgutil.walk_packages(alpkit.config.__path__, "alpkit.config.")]
    assert {"alpkit.config.run", "alpkit.config.grid.expand"} < set(modules)
    check = (
        f"import sys, {', '.join(modules)}\n"
        "heavy = {'torch', 'numpy', 'pandas', 'mlflow', 'alpkit.diagnostics', 'alpkit.runs'}\n"
        "sys.exit(repr(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "set()"


def test_the_public_names_are_there() -> None:
    wanted = {
        "load_ablation",
        "expand",
        "RunConfig",
        "ObjectiveConfig",
        "PerturbationConfig",
        "PRESETS",
    }
    assert wanted <= set(alpkit.config.__all__)
    assert all(hasattr(alpkit.config, name) for name in alpkit.config.__all__)

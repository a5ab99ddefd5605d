"""The package shows what is public, and nothing that an import happened to touch."""

import subprocess
import sys

from alpkit import analysis


def test_the_namespace_is_the_public_list():
    public = ["GridFrame", "Report", "analyze", "load", "looks", "tail_frame"]
    assert dir(analysis) == sorted(analysis.__all__) == public
    assert all(getattr(analysis, name).__doc__ for name in public)


def test_it_is_so_after_every_module_was_imported():
    code = (
        "import pkgutil; from importlib import import_module; from alpkit import analysis;"
        "[import_module(m.name) for m in pkgutil.walk_packages(analysis.__path__, 'alpkit.analysis.')];"
        "print(*dir(analysis))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(analysis.__all__)

"""The package shows what is public, and nothing that an import happened to touch."""

import pkgutil
from importlib import import_module

from alpkit import analysis


def test_the_namespace_is_the_public_list_whatever_was_imported():
    for module in pkgutil.walk_packages(analysis.__path__, f"{analysis.__name__}."):
        import_module(module.name)
    public = ["GridFrame", "Report", "analyze", "load", "looks", "tail_frame"]
    assert dir(analysis) == sorted(analysis.__all__) == public
    assert all(getattr(analysis, name).__doc__ for name in public)

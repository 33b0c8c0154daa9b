"""Where our packages lie, and proof that Python takes them from there. Imports none of them.

Hugging Face publishes a package named `kernels` too; taken instead of ours it would break the
engine far from the cause.
"""

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.errors import StartError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("api", "workers", "engine", "kernels", "deploy")


def prefer_own() -> None:
    """Put our root first on this process's import path. Raises StartError if that does not help."""
    if sys.path[0] != str(ROOT):
        sys.path.insert(0, str(ROOT))
    for name in PACKAGES:
        check(name)


def child_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for a child, and its children, that must find our packages before others.

    Not even the directory that the user stands in comes before them.
    """
    paths = [str(ROOT), *filter(None, environ.get("PYTHONPATH", "").split(os.pathsep))]
    path = os.pathsep.join(dict.fromkeys(paths))
    return {**environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def check(name: str, root: Path = ROOT) -> None:
    """Raise StartError if `import name` would give another package than ours."""
    spec = importlib.util.find_spec(name)
    origin = Path(spec.origin).resolve() if spec and spec.origin else None
    if origin != root / name / "__init__.py":
        raise StartError(
            f"`import {name}` finds {origin or 'nothing'} and not Tramontane's own package: "
            f"run `pip uninstall {name}` in this environment, or use one of its own"
        )
    if _is_overwritten(name, root):
        raise StartError(
            f"the package {name} from the package index was installed over Tramontane's own: "
            f"run `pip uninstall {name}`, then install Tramontane again"
        )


def _is_overwritten(name: str, root: Path) -> bool:
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return Path(str(distribution.locate_file(name))).resolve() == root / name

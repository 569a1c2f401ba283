"""How to install the optional dependencies. No package index has canthus, so `pip install 'canthus[rtx]'` fails."""

import json
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse


def install_command(extra: str) -> str:
    """Return the command that adds an extra ("rtx", "tensorrt", "train") to this installation of canthus."""
    try:
        distribution = metadata.distribution("canthus")
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")  # PEP 610
        version = distribution.version
    except metadata.PackageNotFoundError:
        origin, version = {}, "VERSION"
    source = Path(unquote(urlparse(origin.get("url", "")).path))
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"{installer()} -c {shlex.quote(str(source / 'constraints.txt'))} {editable}{_with(source, extra)}"
    if source.suffix == ".whl":
        return f"{installer()} {_with(source, extra)}"
    return f"{installer()} {_with(Path(f'canthus-{version}-py3-none-any.whl'), extra)}"


def installer() -> str:
    """Return the start of an install command for this Python environment, which need not be activated."""
    pip = shutil.which("pip")
    if pip and Path(pip).parent == Path(sys.executable).parent:
        return "pip install"
    return f"{shlex.quote(sys.executable)} -m pip install"


def _with(source: Path, extra: str) -> str:
    return shlex.quote(f"{source}[{extra}]")

"""What was run, on what: enough to tell whether two reports may be compared."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import actloop

PACKAGES = ("actloop", "numpy", "scipy", "torch", "mujoco", "metaworld", "av")


def identity(command: Sequence[str]) -> dict[str, object]:
    """JSON-ready: versions, code commit where it is a checkout, processor, date (UTC) and the command."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "commit": code_commit(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": processor(),
        "cpus": os.cpu_count(),
    }


def code_commit() -> str:
    """The commit of the checkout that actloop was imported from, `+` where it was changed since; else empty."""
    where = Path(actloop.__file__).resolve().parent
    revision = _git(where, "rev-parse", "--short=12", "HEAD")
    tracked = revision and _git(where, "ls-files", "--error-unmatch", "__init__.py")
    if not tracked:  # installed into somebody else's repository
        return ""
    return revision + ("+" if _git(where, "status", "--porcelain", "--untracked-files=no", ".") else "")


def processor() -> str:
    """The processor's own name for itself, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(where: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=where, capture_output=True, text=True, timeout=10, check=False, shell=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

"""The house rules that a reader relies on: what importing costs, what is pinned, and that the documents are true."""

import functools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from actloop.cli import commands

ROOT = Path(__file__).parents[1]
HEAVY = (
    "torch",
    "msgpack",
    "rerun",
    "websockets",
    "mujoco",
    "pyarrow",
    "av",
    "metaworld",
    "gymnasium",
    "scipy",
    "matplotlib",
    "PIL",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "ray",
    "statsmodels",
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def imported_by(code: str) -> set[str]:
    script = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import actloop",
        "import actloop.loop",
        "import actloop.actions",
        "import actloop.simulation.registry",
        "import actloop.cli.commands",
        "from actloop.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass",
    ],
)
def test_the_light_core_stays_light(code: str) -> None:
    assert not imported_by(code) & set(HEAVY)


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.partition("==") for line in lines if line and not line.startswith("#")]
    assert all(exact for _, exact, _ in pinned), "constraints.txt holds exact versions only"
    return {canonicalize_name(name): version for name, _, version in pinned}


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    found = [Requirement(line) for line in [*project["dependencies"], *extras]]
    return [requirement for requirement in found if requirement.name != "actloop"]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_every_requirement_is_pinned_within_its_range(requirement: Requirement) -> None:
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


def blocks(page: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(page.read_text(encoding="utf-8")) if found == language]


def shown_commands() -> list[str]:
    text = "\n".join(code for page in PAGES for code in blocks(page, "sh")).replace("\\\n", " ")
    return [line.partition("  #")[0].strip() for line in text.splitlines() if line.startswith("actloop ")]


@pytest.mark.parametrize("line", shown_commands())
def test_commands_in_the_documents_are_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def understood(*_: object, **__: object) -> int:
        return 77

    stubs = {command: functools.update_wrapper(lambda *a, **k: understood(), command) for command in commands.COMMANDS}
    monkeypatch.setattr(commands, "COMMANDS", tuple(stubs.values()))
    groups = {name: (help, tuple(stubs[one] for one in grouped)) for name, (help, grouped) in commands.GROUPS.items()}
    monkeypatch.setattr(commands, "GROUPS", groups)
    assert commands.run(shlex.split(line)[1:]) == 77


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_in_the_documents_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page one after another; those that it says to save as FILE.py can be imported."""
    text = page.read_text(encoding="utf-8")
    for saved in re.finditer(r"ave it as\s+`(\w+)\.py`.*?```python\n(.*?)```", text, re.DOTALL):
        (tmp_path / f"{saved[1]}.py").write_text(saved[2], encoding="utf-8")
        monkeypatch.delitem(sys.modules, saved[1], raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "shown"}
    for number, code in enumerate(blocks(page, "python")):
        exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)


def test_data_files_travel_with_the_package() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    package = ROOT / "src" / "actloop"
    carried = {file for pattern in tools["setuptools"]["package-data"]["actloop"] for file in package.glob(pattern)}
    here = {file for file in package.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert here <= carried

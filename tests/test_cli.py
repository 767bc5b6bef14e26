"""The command line: one family of options, one line per error, and JSON that a script can read."""

import inspect
import json
import sys
from pathlib import Path
from typing import Annotated, get_args, get_origin

import pytest

from actloop.cli import commands, main, options
from actloop.cli.text import as_json, columns

NAMES = [[*filter(None, [commands.group_of(command)]), commands.command_name(command)] for command in commands.COMMANDS]


def help_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as exit:
        main([*argv, "--help"])
    assert exit.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_command_on_one_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = help_of(capsys)
    assert all(f"• {name[0]} " in shown for name in NAMES)
    assert len(shown.splitlines()) < 40


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
def test_help_fits_eighty_columns(
    name: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    usage, *lines = help_of(capsys, *name).splitlines()
    assert usage.startswith(f"usage: actloop {' '.join(name)}")
    assert max(map(len, lines)) <= 80


def test_a_finished_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = tmp_path / "policy.safetensors"
    done.write_bytes(b"weights")
    assert main(["train", "tabletop-fast", "--data", str(tmp_path), "--out", str(done)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert done.read_bytes() == b"weights"


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda command: command.__name__)
def test_every_option_is_described_once_for_all_commands(command: object) -> None:
    described = [value for value in vars(options).values() if get_origin(value) is Annotated]
    for parameter in inspect.signature(command).parameters.values():  # type: ignore[arg-type]
        assert parameter.annotation in described, parameter
        texts = [getattr(metadata, "help", None) for metadata in get_args(parameter.annotation)[1:]]
        assert any(text and text.endswith(".") for text in texts), parameter


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["worlds", "tablettop"], "did you mean 'tabletop'?"),
        (["worlds", "exact", "--body", "arm"], "unknown name 'body'"),
        (["record", "--world", "exact", "--tasks", "nothing", "--out", "OUT"], "task, skill or group"),
        (["record", "--world", "exact", "--episodes", "0", "--out", "OUT"], "episodes"),
        (["data", "info", "OUT/nowhere"], "nowhere"),
        (["train", "tabletop-fats", "--data", "OUT", "--out", "OUT/x.safetensors"], "tabletop-fast"),
        (["compare", "--arms", "a=OUT/none.safetensors", "--out", "OUT/run"], "no such checkpoint"),
        (["compare", "--arms", "a=x", "a=y", "--out", "OUT/run"], "names 'a' twice"),
        (["compare", "--arms", "fastest", "--out", "OUT/run"], "shipped for 'tabletop'"),
        (["compare", "--world", "exact", "--out", "OUT/run"], "no policy ships for 'exact'"),
        (["worlds", "exact", "--world-options", "image_size"], "NAME=VALUE"),
        (["worlds", "exact", "--world-options", "image_sise=64"], "did you mean 'image_size'"),
        (["report", "OUT/nowhere"], "nowhere"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, list) else "",
)
def test_an_error_is_one_message_and_exit_code_two(
    argv: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([argument.replace("OUT", str(tmp_path)) for argument in argv])
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith("actloop: error: ")
    assert expected in err
    assert "Traceback" not in err


def test_a_misspelt_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["compar"])
    assert exit.value.code == 2
    assert "compare" in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from actloop.errors import UnknownNameError

    monkeypatch.setenv("ACTLOOP_DEBUG", "1")
    with pytest.raises(UnknownNameError):
        main(["worlds", "tablettop"])


def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("actloop.simulation.tabletop")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert main(["worlds", "tabletop"]) == 2
    assert "actloop[simulation]" in capsys.readouterr().err


def test_a_world_is_described_in_words_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds", "exact"]) == 0
    words = capsys.readouterr().out
    assert main(["worlds", "exact", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["embodiment"]["control_hz"] > 0
    for task in plain["tasks"]:
        assert task["name"] in words
        assert task["instruction"] in words


def test_worlds_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds", "--json"]) == 0
    listed = {world["name"]: world for world in json.loads(capsys.readouterr().out)}
    assert {"tabletop", "metaworld", "exact"} <= set(listed)
    assert listed["tabletop"]["tasks"] > 10


def test_record_then_look_into_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "recorded"
    asked = ["--world", "exact", "--episodes", "2", "--workers", "1", "--out", str(folder), "--json"]
    assert main(["record", *asked]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["episodes"] == 2 * len(summary["tasks"])
    assert main(["data", "info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["episodes"] == summary["episodes"]
    plot = tmp_path / "plot.png"
    assert main(["data", "info", str(folder), "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert str(summary["episodes"]) in capsys.readouterr().out


@pytest.fixture
def seek(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, now the current one, with the policy of docs/add-a-policy.md."""
    page = (Path(__file__).parents[1] / "docs" / "add-a-policy.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "seek.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "seek", raising=False)
    return tmp_path


COMPARE = ["compare", "--world", "exact", "--world-options", "image_size=64", "--arms", "seek=seek:Seek"]
QUICK = ["--tasks", "reach-left", "--episodes", "2", "--sweep", "0", "--latency", "190", "--workers", "1"]


def test_compare_a_policy_of_ones_own_then_report(seek: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [*COMPARE, *QUICK, "--out", "run", "--json"]
    assert main(asked) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["complete"]
    assert all(cell["successes"] == cell["episodes"] for cell in results["cells"])
    page = seek / results["page"]
    assert page.read_text(encoding="utf-8").startswith("<!")
    page.unlink()
    assert main(["report", "run"]) == 0
    assert page.exists()
    capsys.readouterr()
    assert main(asked) == 0  # everything is finished, so nothing runs
    assert json.loads(capsys.readouterr().out)["cells"] == results["cells"]
    assert main([*asked, "--seed", "5"]) == 2
    assert "holds another comparison" in capsys.readouterr().err


def test_a_misspelt_latency_is_found_before_anything_runs(seek: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMPARE, "--latency", "fastwam-5090", "--out", "run"]) == 2
    assert "fastwam-5090d" in capsys.readouterr().err
    assert not (seek / "run").exists()


def test_an_interruption_says_what_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import actloop.training.record as recording

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(recording, "record", interrupted)
    asked = ["record", "--world", "exact", "--out", str(tmp_path)]
    assert main(asked) == 130
    err = capsys.readouterr().err
    assert str(tmp_path) in err
    assert "goes on from there" in err
    assert main([*asked[:-1], str(tmp_path / "new")]) == 130
    assert "nothing was written" in capsys.readouterr().err


def test_columns_wrap_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = columns([("a", "word " * 30), ("longer", "x")]).splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[-1] == "  longer  x"
    assert all(line.startswith(" " * 10) for line in lines[1:-1])


def test_json_of_paths_and_dataclasses() -> None:
    from actloop.contracts import Outcome

    value = {"path": Path("a/b"), "outcome": Outcome(success=True, reason="done", time=1.5)}
    assert json.loads(as_json(value)) == {
        "path": "a/b",
        "outcome": {"success": True, "reason": "done", "time": 1.5},
    }

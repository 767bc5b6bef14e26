"""The doctor finds what is broken, names the command that mends it, and never breaks itself."""

import json

import pytest

from actloop.cli import doctor, main
from actloop.cli.doctor import Check, ProbeError, can_run, report


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return doctor.examine()


def test_every_check_says_something_and_a_missing_one_says_what_to_do(checks: list[Check]) -> None:
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert check.detail
        assert check.mend or check.state == "ok"


def test_this_machine_has_what_the_tests_need() -> None:
    states = {check.name: check.state for check in doctor.examine()}
    assert {
        name for name in ("python", "torch", "mujoco", "data", "report", "tabletop") if states[name] != "ok"
    } == set()


def test_a_broken_probe_becomes_a_finding() -> None:
    def broken() -> str:
        raise ImportError("libsomething.so: cannot open\nsecond line")

    check = doctor._try("thing", broken, mend="mend it", needed=True)
    assert (check.state, check.mend, check.needed) == ("missing", "mend it", True)
    assert check.detail == "ImportError: libsomething.so: cannot open"


def test_a_probe_may_say_better_what_mends_it() -> None:
    def broken() -> str:
        raise ProbeError("half there", "mend that")

    check = doctor._try("thing", broken, mend="mend it")
    assert (check.detail, check.mend) == ("half there", "mend that")


@pytest.mark.parametrize(("needed", "code"), [(True, 1), (False, 0)])
def test_the_exit_code_says_whether_the_main_job_can_run(
    needed: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [
        Check(name="python", state="ok", detail="3.11", needed=True),
        Check(name="thing", state="missing", detail="gone", mend="fetch it", needed=needed),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    assert can_run(checks) is (code == 0)
    assert main(["doctor"]) == code
    shown = capsys.readouterr().out
    assert "-> fetch it" in shown
    assert shown == report(checks) + "\n"
    assert main(["doctor", "--json"]) == code
    plain = json.loads(capsys.readouterr().out)
    assert plain["can_run"] is (code == 0)
    assert plain["checks"][1]["mend"] == "fetch it"


def test_an_absent_renderer_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "GL_PROBE", "raise SystemExit('no EGL here')")
    check = doctor._try("opengl", doctor._opengl, mend="")
    assert check.state == "missing"
    assert "no EGL here" in check.detail
    assert "libegl1" in check.mend

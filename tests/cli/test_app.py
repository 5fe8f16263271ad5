"""The command line as a whole: help, errors, exit codes, and what it does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from autocompress.cli.app import app, run

HEAVY = ("torch", "onnx", "onnxruntime", "onnx_ir", "pandas", "plotly", "optuna", "scipy", "pydantic", "yaml")
VERBS = {"search", "compress", "measure", "analyze", "predict", "report", "export", "targets", "doctor", "agent"}


def _options(verb: str) -> set[str]:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts if option.startswith("-")}


def _loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(','.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.strip().splitlines()[-1].split(","))


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in VERBS)


def test_no_verb_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        (
            "search",
            "--model --data --target --device --runtime --space --objective --max-accuracy-drop --max-latency-ms "
            "--max-size-mb --trials --budget --sampler --seed --out -c",
        ),
        ("compress", "--plan --out --data --report"),
        ("measure", "--target --device --runtime --threads --json"),
        ("analyze", "--target --data --json"),
        ("predict", "--plan --target --runtime --measure --json"),
        ("export", "--pick --out"),
        ("targets", "--json"),
        ("doctor", "--json"),
    ],
)
def test_verb_has_the_documented_options(verb: str, options: str) -> None:
    assert set(options.split()) <= _options(verb)


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not _loaded_by("import autocompress").intersection({*HEAVY, "numpy", "typer", "rich"})


def test_the_command_line_loads_nothing_heavy() -> None:
    assert not _loaded_by("import autocompress.cli").intersection({*HEAVY, "numpy", "rich"})


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serch"], "search"),
        (["search", "--trails", "5"], "--trials"),
        (["search", "--seed", "x"], "--seed"),
        (["search", "--budget", "3x"], "3x"),
        (["search", "--objective", "speed"], "speed"),
        (["search", "--max-accuracy-drop", "7"], "0.01"),
        (["measure"], "A.onnx"),
        (["predict", "demo", "--plan", "no-such-plan.json"], "no-such-plan.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("error: ")
    assert streams.err.count("\n") == 1
    assert hint in streams.err


def test_a_fault_of_ours_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a\nb")

    app.command("broken")(broken)
    try:
        assert run(["broken"]) == 1
    finally:
        app.registered_commands.pop()
    error = capsys.readouterr().err
    assert error == "internal error: ZeroDivisionError: a b (add --traceback to see where)\n"


def test_ctrl_c_is_exit_code_130() -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    app.command("stopped")(stopped)
    try:
        assert run(["stopped"]) == 130
    finally:
        app.registered_commands.pop()


def test_traceback_shows_where(capsys: pytest.CaptureFixture[str]) -> None:
    run(["predict", "demo", "--plan", "no-such-plan.json", "--traceback"])
    assert "Traceback" in capsys.readouterr().err

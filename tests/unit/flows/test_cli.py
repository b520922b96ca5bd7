from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.cli import main as cli
from flows.cli.command import Command, Invocation, Option, Outcome
from flows.cli.help import command_help, overview
from flows.cli.options import flags_without_effect, parse, setting_flags, settings_of
from flows.cli.table import COMMANDS, find_command
from ts4s_core.errors import InputError, SettingsError, TrainingError
from ts4s_core.settings import Settings
from ts4s_core.settings.flows import flow_settings
from ts4s_core.settings.load import SECRET_FIELDS

HELP_LIMIT_S = 2.0


# Commands of the tests, named in the table like any other.
def echo(invocation: Invocation) -> Outcome:
    print("a library prints this")
    invocation.display.progress("echo", {"step": 1, "steps": 2})
    return Outcome({"name": invocation.settings.name, "workers": invocation.settings.train.workers, "nan": float("nan")})


def fail_input(invocation: Invocation) -> Outcome:
    raise InputError("row 3 of\na.tsv: no tab")


def fail_running(invocation: Invocation) -> Outcome:
    raise TrainingError("worker 1 died")


def fail_foreign(invocation: Invocation) -> Outcome:
    secret = invocation.settings.storage.secret
    raise RuntimeError(f"request with {secret.get_secret_value() if secret else ''}\nrefused")


def interrupt(invocation: Invocation) -> Outcome:
    raise KeyboardInterrupt


OF_THE_TESTS = ("echo", "fail_input", "fail_running", "fail_foreign", "interrupt")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cli_test_commands", sys.modules[__name__])
    monkeypatch.setattr(cli, "_quiet", lambda debug: contextlib.nullcontext())


def outcome(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    own = tuple(Command(name, name, f"cli_test_commands:{name}", ("train", "storage")) for name in OF_THE_TESTS)
    code = cli.main(list(words), own if words[0] in OF_THE_TESTS else COMMANDS)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("commands")
def test_json_is_the_one_line_of_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capsys, "echo", "--json", "--name", "demo", "--train.workers=2", "--train.seed", "3")
    assert code == 0
    assert json.loads(out) == {"name": "demo", "workers": 2, "nan": None}
    assert err == "echo step=1/2\n"


@pytest.mark.usefixtures("commands")
def test_without_json_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = outcome(capsys, "echo")
    assert (code, out) == (0, "name     default\nworkers  0\nnan      nan\n")


@pytest.mark.usefixtures("commands")
@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        ("fail_input", 2, "error: row 3 of a.tsv: no tab\n"),
        ("fail_running", 1, "error: worker 1 died\n"),
        ("interrupt", 130, ""),
    ],
)
def test_errors_are_one_line_and_an_exit_code(capsys: pytest.CaptureFixture[str], command: str, code: int, line: str) -> None:
    assert outcome(capsys, command) == (code, "", line)


@pytest.mark.usefixtures("commands")
def test_a_foreign_error_is_one_line_its_traceback_a_file_and_no_secret_shows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TS4S_STORAGE__KEY", "AK")
    monkeypatch.setenv("TS4S_STORAGE__SECRET", "hush-hush")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, out, err = outcome(capsys, "fail_foreign")
    assert (code, out) == (1, "")
    assert err.startswith("error: unexpected RuntimeError: request with ******** refused; the traceback is in ")
    (kept,) = tmp_path.iterdir()
    assert str(kept) in err
    trace = kept.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in trace
    assert "hush-hush" not in trace + err


@pytest.mark.usefixtures("commands")
def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = outcome(capsys, "fail_running", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert err.endswith("error: worker 1 died\n")


REFUSED = [
    (["retrain", "--trian.workers", "2"], "unknown flag --trian.workers: did you mean --train.workers"),
    (["retrain", "--workers=2"], "unknown flag --workers: did you mean --train.workers?"),
    (["retrain", "--train.max-steps", "2"], "did you mean --train.max_steps"),
    (["retrain", "--zzzzzz"], "unknown flag --zzzzzz: see ts4s retrain --help"),
    (["retrain", "--train.work", "2"], "unknown flag --train.work"),
    (["retrain", "--a.b", "--c.d"], "unknown flag --a.b: see ts4s retrain --help; unknown flag --c.d"),
    (["retrain", "--to", "f.onnx"], "unknown flag --to"),
    (["retrain", "--train.workers"], "--train.workers needs a value"),
    (["retrain", "leftover"], "unexpected 'leftover'"),
    (["retrain", "--train.workers", "two"], "train.workers: input should be a valid integer"),
    (["retrain", "--train.workers", "-1"], "train.workers: input should be greater than or equal to 0, got '-1'"),
    (["retrain", "--reuse", "maybe"], "reuse: input should be a valid boolean"),
    (["retrain", "--spark.conf", "novalue"], "spark.conf 'novalue' is not KEY=VALUE"),
    (["retrain", "--config", "/nonexistent.toml"], "--config /nonexistent.toml cannot be read"),
    (["retrain", "--profile", "test"], "--profile test needs --config"),
    (["nothing"], "no command 'nothing': there is retrain"),
    (["models", "nothing"], "no command 'models nothing'"),
    (["--json", "retrain"], "the command comes first, got --json"),
    (["models", "show"], "required: model"),
    (["models", "rollback", "demo"], "required: --reason"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_wrong_command_lines_are_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = outcome(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [["--storage.secret", "hush-hush"], ["--storage.secret=hush-hush"], ["--storage.key=hush-hush"]]
)
def test_secrets_are_refused_as_flags_with_the_remedy(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, _, err = outcome(capsys, "retrain", *words)
    assert code == 2
    assert "hush-hush" not in err
    assert f"TS4S_STORAGE__{words[0].split('=')[0].rpartition('.')[2].upper()}" in err
    assert "--config" in err


def test_a_misspelt_secret_is_not_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = outcome(capsys, "retrain", "--storage.secrett=hush-hush")
    assert "hush-hush" not in err


_LONG_LINE = (
    "--name=demo --train.workers 2 --spark.conf a=1 --spark.conf=b=2 --model.freeze_encoder --reuse=false "
    "--from onnx/a/1 --from dataset/b/2 --dry-run --json --config c.toml --profile=p"
)


def test_flags_become_nested_values() -> None:
    command = Command("x", "x", "m:f", (), (Option("--from", "", repeat=True), Option("--dry-run", "", switch=True)))
    parsed = parse(
        command,
        _LONG_LINE.split(" "),
    )
    assert parsed.settings == {
        "name": "demo",
        "train": {"workers": "2"},
        "spark": {"conf": ["a=1", "b=2"]},
        "model": {"freeze_encoder": "true"},
        "reuse": "false",
    }
    assert vars(parsed.options) == {"from": ["onnx/a/1", "dataset/b/2"], "dry_run": True}
    assert (parsed.config, parsed.profile, parsed.json, parsed.debug) == (Path("c.toml"), "p", True, False)


def test_negative_numbers_and_values_with_equal_signs_are_values() -> None:
    parsed = parse(COMMANDS[0], ["--train.learning_rate", "-1e-3", "--data.source=a=b"])
    assert parsed.settings == {"train": {"learning_rate": "-1e-3"}, "data": {"source": "a=b"}}


def test_every_setting_but_the_secrets_is_a_flag_with_help() -> None:
    flags = {flag.flag for flag in setting_flags()}
    fields = Settings.model_fields
    count = sum(len(getattr(field.annotation, "model_fields", {"": 0})) for field in fields.values())
    assert len(flags) == count - len(SECRET_FIELDS)
    assert {"--name", "--train.workers", "--storage.endpoint_url"} <= flags
    assert not {"--storage.key", "--storage.secret"} & flags


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_fits_the_screen_and_names_every_setting_that_bears(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = command_help(command)
    assert max(len(line) for line in text.splitlines()) <= 100
    shown = {
        word for word in text.split() if word.startswith("--") and word.lstrip("-").partition(".")[0] in Settings.model_fields
    }
    every = {flag.flag for flag in setting_flags() if flag.group in ("", *command.groups)}
    used = {f"--{name}" for name in flow_settings(command.flow).names}
    assert shown - {option.flag for option in command.options} == used & every
    assert all(option.flag in text for option in command.options)
    assert text.startswith(f"usage: ts4s {command.name}")


def test_help_says_type_bound_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = " ".join(command_help(COMMANDS[0]).split())
    assert "--train.batch_size INT rows in a global batch (1 to 1000000; default 32)" in text
    assert "--model.task CHOICE what the head predicts (classification | multi-label; default classification)" in text
    assert "(above 0, at most 10; default 0.0001)" in text


def shown_order(text: str) -> list[str]:
    return [line.split()[0][2:] for line in text.splitlines() if re.match(r"  --(\w+\.)?\w+ ", line)]


@pytest.mark.parametrize("flow", ["retrain", "language-model", "predict"])
def test_help_shows_what_people_change_first_before_all_groups(flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    command, _ = find_command([flow])
    assert command is not None
    text = command_help(command)
    names = [name for name in shown_order(text) if name in flow_settings(flow).names]
    first = flow_settings(flow).first
    assert tuple(names[: len(first)]) == first
    groups = [name.partition(".")[0] if "." in name else "" for name in names[len(first) :]]
    assert groups == sorted(groups, key=["", *command.groups].index)


def test_help_of_a_flow_has_its_own_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    texts = {}
    for flow in ("retrain", "language-model"):
        command, _ = find_command([flow])
        assert command is not None
        texts[flow] = " ".join(command_help(command).split())
    assert "--train.epochs INT passes over the training rows (1 to 100000; default 2)" in texts["retrain"]
    assert "--train.epochs INT passes over the training rows (1 to 100000; default 8)" in texts["language-model"]
    assert "tokens to generate (1 to 100000; default 400)" in texts["language-model"]
    assert "--model.cell" not in texts["retrain"]
    assert "--data.label_column" not in texts["language-model"]
    assert "--model.task" not in texts["language-model"]


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["retrain", "--model.cell", "lstm"], "--model.cell has no effect on ts4s retrain with model.task classification"),
        (
            ["retrain", "--model.task=multi-label", "--data.window=64", "--model.class_weights=balanced", "--train.epochs=3"],
            "--model.class_weights, --data.window have no effect on ts4s retrain with model.task multi-label",
        ),
        (["language-model", "--model.max_length=64", "--name=a"], "--model.max_length has no effect on ts4s language-model"),
        (["predict", "--model=a", "--train.epochs=3"], "--train.epochs has no effect on ts4s predict"),
        (["retrain", "--train.epochs=3", "--spark.conf", "a=b", "--reuse", "false"], ""),
        (["train", "--train.seed", "3", "--model.class_weights=balanced"], ""),
        (["train", "--model.cell", "lstm"], "--model.cell has no effect on ts4s train with model.task classification"),
        (["export", "--model.task=language-model", "--data.window=64", "--model.layers=2"], ""),
        (
            ["prepare", "--model.task=language-model", "--train.epochs=3", "--data.label_column=a"],
            "--data.label_column, --train.epochs have no effect on ts4s prepare with model.task language-model",
        ),
        (["evaluate", "--train.epochs=3"], "--train.epochs has no effect on ts4s evaluate with model.task classification"),
        (["plan", "--data.source=a"], "--data.source has no effect on ts4s plan with model.task classification"),
        (["models", "gc", "--storage.keep_last=2", "--train.epochs=3"], "--train.epochs has no effect on ts4s models gc"),
        (["stack", "up", "--spark.master=none"], "--spark.master has no effect on ts4s stack up with model.task classification"),
    ],
)
def test_flags_that_do_not_bear_are_named_in_one_line(words: list[str], note: str) -> None:
    command, length = find_command(words)
    assert command is not None
    parsed = parse(command, words[length:])
    assert flags_without_effect(command, parsed, settings_of(command, parsed)) == note


@pytest.mark.usefixtures("commands")
def test_the_note_is_one_line_on_standard_error_and_the_command_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TS4S_MODEL__CELL", "lstm")  # from the environment it is taken in silence
    command = Command("echo", "echo", "cli_test_commands:echo", ("model", "data", "train"), flow="retrain")
    assert cli.main(["echo", "--json", "--data.window", "32", "--train.workers", "1"], (command,)) == 0
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0] == "note: --data.window has no effect on ts4s echo with model.task classification"
    assert captured.err.count("note:") == 1
    assert json.loads(captured.out)["workers"] == 1


def test_the_overview_lists_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    text = overview(COMMANDS)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert all(command.name in text for command in COMMANDS)


def test_an_older_name_still_works() -> None:
    old, new = find_command(["serve", "--json"]), find_command(["run-deployments"])
    assert old == new
    assert old[0] is not None
    assert "serve" in command_help(old[0])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_of_the_table_has_its_function(command: Command) -> None:
    assert callable(command.load())


def test_secrets_are_no_settings_error_text() -> None:
    with pytest.raises(SettingsError, match="TS4S_STORAGE__KEY"):
        parse(COMMANDS[0], ["--storage.key", "x"])


def ts4s(*words: str, cwd: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "flows.cli", *words], cwd=cwd, capture_output=True, text=True, timeout=60)
    return done, time.monotonic() - began


@pytest.mark.parametrize("words", [["--help"], ["retrain", "--help"], ["models"], ["--version"]])
def test_help_answers_at_once(tmp_path: Path, words: list[str]) -> None:
    done, seconds = ts4s(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ts4s" in done.stdout
    assert seconds < HELP_LIMIT_S
    assert list(tmp_path.iterdir()) == []


def test_refused_settings_answer_at_once_and_write_nothing(tmp_path: Path) -> None:
    done, seconds = ts4s("retrain", "--train.logical_shards", "3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: train.logical_shards is 3")
    assert seconds < HELP_LIMIT_S
    assert list(tmp_path.iterdir()) == []

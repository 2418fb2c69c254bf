"""The command line of every entry point: parse, validate, report errors in one line, exit with the right status."""

from __future__ import annotations

import codecs
import difflib
import io
import locale
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsError

from soundstack.config import places
from soundstack.config.steps import Config
from soundstack.utils import signals
from soundstack.utils.errors import ConfigError, SoundstackError

C = TypeVar("C", bound=Config)

USER_ERROR = 2
INTERRUPTED = 130


def parse(model: type[C], arguments: Sequence[str]) -> C:
    """Build a configuration from ``--name value`` arguments.

    ``--help`` prints the parameters and exits with status 0.

    Raises:
        ConfigError: one line that names every wrong parameter and what is allowed.
    """
    # Once on the command line is enough: argparse would silently take the last of two.
    names = [argument.split("=", 1)[0] for argument in arguments if argument.startswith("--")]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{_one_line(', '.join(twice))} is given more than once; give it once.")
    try:
        return CliApp.run(model, cli_args=_joined(model, arguments), cli_exit_on_error=False)
    except SettingsError as error:
        raise ConfigError(_one_line(_explain_arguments(model, str(error)))) from None
    except ValidationError as error:
        raise ConfigError(_one_line(explain(model, error))) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _joined(model: type[Config], arguments: Sequence[str]) -> list[str]:
    """Write ``--name value`` as ``--name=value``: argparse would take a value with a dash for another name."""
    names = {f"--{name}" for name in model.model_fields}
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in names and argument.split("=", 1)[0] not in names | {"--help", "-h"}:
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def explain(model: type[Config], error: ValidationError) -> str:
    """Turn pydantic's report into one line: parameter, value, what is allowed."""
    problems: dict[str, str] = {}
    for item in error.errors():
        name = str(item["loc"][0]) if item["loc"] else ""
        message = item["msg"].removeprefix("Value error, ")
        if not name:  # checks over several parameters name theirs themselves
            problems[message] = message
        elif item["type"] == "extra_forbidden":
            problems[name] = f"{name}: no such parameter{_suggest(model, name)}"
        elif item["type"] == "value_error":
            problems[name] = f"{name}: {message}"
        else:
            given = item["input"]
            problems.setdefault(name, f"{name}: {given!r} is not allowed; give {allowed(model, name)}")
    return "; ".join(problems.values())


def allowed(model: type[Config], name: str) -> str:
    """Say in words what a parameter takes, from its JSON schema."""
    return _describe(model.model_json_schema()["properties"][name])


def _describe(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_describe(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return repr(schema["const"])
    if "pattern" in schema:
        return "1 to 40 letters, digits, '_' or '.'"
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(schema["type"], "text")
    bounds = [
        f"{word} {schema[key]:.12g}"
        for key, word in (
            ("minimum", ">="),
            ("exclusiveMinimum", ">"),
            ("maximum", "<="),
            ("exclusiveMaximum", "<"),
        )
        if key in schema
    ]
    return " ".join([kind, " and ".join(bounds)]).strip()


def _explain_arguments(model: type[Config], message: str) -> str:
    message = message.removeprefix("error parsing CLI: ")
    if message.startswith("unrecognized arguments: "):
        unknown = message.removeprefix("unrecognized arguments: ").split()
        names = [word.split("=", 1)[0].lstrip("-") for word in unknown if word.startswith("--")]
        if names:
            return "; ".join(f"{name}: no such parameter{_suggest(model, name)}" for name in names)
        return f"{' '.join(unknown)}: not understood; parameters are given as --name value"
    if message.endswith("expected one argument"):
        name = message.split()[1].lstrip("-").rstrip(":")
        return f"{name}: has no value; give {allowed(model, name)}" if name in model.model_fields else message
    return message


def _suggest(model: type[Config], name: str) -> str:
    close = difflib.get_close_matches(name, model.model_fields, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; allowed: {', '.join(model.model_fields)}"


def run(model: type[C], action: Callable[[C], Any], arguments: Sequence[str] | None = None) -> None:
    """Run an entry point: parse, act, and exit 0, or print one clear line and exit 2 on a user's mistake.

    MLflow marks its run FAILED from the exit status; errors that are not the user's keep their traceback.
    """
    if arguments is None:
        _speak_utf8()
        places.stand_with_the_user()
        arguments = sys.argv[1:]
    with signals.handled():  # a polite kill ends like Ctrl-C: runs are closed, finished work is kept
        try:
            action(parse(model, arguments))
        except (Exception, KeyboardInterrupt) as error:
            kept = "".join(f" {note}" for note in getattr(error, "__notes__", []))
            if isinstance(error, KeyboardInterrupt) or signals.interrupted():
                print(f"Interrupted.{kept}", file=sys.stderr)
                raise SystemExit(INTERRUPTED) from None
            if isinstance(error, SoundstackError):
                name = model.__name__.removesuffix("Config").lower()
                print(f"{name}: {error}{kept}", file=sys.stderr)
                raise SystemExit(USER_ERROR) from None
            raise


def _speak_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale is another: names of files, tables and texts are UTF-8."""
    foreign = not sys.flags.utf8_mode and codecs.lookup(locale.getencoding()).name != "utf-8"
    if foreign and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"PYTHONUTF8": "1"})
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter gets its number
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

"""The command line of every entry point: parse, validate, report errors in one line, exit with the right status."""

from __future__ import annotations

import argparse
import codecs
import difflib
import inspect
import io
import locale
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from soundstack.config import places
from soundstack.config.base import FORMER_NAMES, Config
from soundstack.utils import signals
from soundstack.utils.errors import ConfigError, SoundstackError

C = TypeVar("C", bound=Config)

USER_ERROR = 2
INTERRUPTED = 130


def parse(model: type[C], arguments: Sequence[str]) -> C:
    """Build a configuration from ``--name value`` or ``--name=value`` arguments.

    ``--help`` prints the parameters and exits with status 0.

    Raises:
        ConfigError: one line that names every wrong parameter and what is allowed.
    """
    if {"--help", "-h"} & set(arguments):
        print(help_text(model), end="")
        raise SystemExit(0)
    try:
        return model.model_validate(_values(model, arguments))
    except ValidationError as error:
        raise ConfigError(" ".join(explain(model, error).split())) from None


def _values(model: type[Config], arguments: Sequence[str]) -> dict[str, str]:
    """Take arguments apart into values by name; a value may begin with a dash."""
    taken = {*model.model_fields, *(former for former, name in FORMER_NAMES.items() if name in model.model_fields)}
    known = {f"--{name}" for name in taken}
    values: dict[str, str] = {}
    problems: list[str] = []
    words = deque(arguments)
    while words:
        word = words.popleft()
        option, has_value, value = word.partition("=")
        name = option.removeprefix("--")
        if option in known:
            if not has_value and words and words[0].partition("=")[0] not in known:
                has_value, value = "=", words.popleft()
            if name in values:
                problems.append(f"{option} is given more than once; give it once")
            elif not has_value:
                problems.append(f"{name}: has no value; give {allowed(model, name)}")
            values[name] = value
        elif option.startswith("--") and name:
            problems.append(f"{name}: no such parameter{_suggest(model, name)}")
            if not has_value and words and not words[0].startswith("--"):
                words.popleft()
        else:
            problems.append(f"{word}: not understood; parameters are given as --name value")
    if problems:
        raise ConfigError(" ".join("; ".join(problems).split()))
    return values


def help_text(model: type[Config]) -> str:
    """Say what an entry point does, and what every parameter means, takes and is by default."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s [--name value ...]",
        description=inspect.getdoc(model),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default in model.defaults().items():
        kind = allowed(model, name)
        meaning = f"{model.model_fields[name].description} ({'' if kind == 'text' else f'{kind}; '}default: {default})"
        parser.add_argument(f"--{name}", metavar="", help=meaning.replace("%", "%%"))
    return parser.format_help()


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
            problems.setdefault(name, f"{name}: {item['input']!r} is not allowed; give {allowed(model, name)}")
    return "; ".join(problems.values())


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def allowed(model: type[Config], name: str) -> str:
    """Say in words what a parameter takes, from its JSON schema."""
    return _describe(model.model_json_schema()["properties"][FORMER_NAMES.get(name, name)])


def _describe(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_describe(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return repr(schema["const"])
    if "pattern" in schema:
        return "1 to 40 letters, digits, '_' or '.'"
    kind = {"integer": "a whole number", "number": "a number", "boolean": "yes or no"}.get(schema["type"], "text")
    bounds = [f"{sign} {schema[key]:.12g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([kind, " and ".join(bounds)]).strip()


def _suggest(model: type[Config], name: str) -> str:
    close = difflib.get_close_matches(name, model.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(model.model_fields)}"


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
                print(f"{model.step()}: {error}{kept}", file=sys.stderr)
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

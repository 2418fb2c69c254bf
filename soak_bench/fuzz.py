"""Property-based fuzzing of what reads the user's input: sound files, tables of clips, and command lines.

The property is the same for all: whatever comes, the function returns something sane or raises its own kind of error
with one line of text. Hypothesis makes, mutates and shrinks the examples; rounds of them go on until the time is up.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from soak_bench.hostile import clips
from soak_bench.outcome import Part
from soundstack.audio.decode import AudioSpec, decode, prepare
from soundstack.audio.limits import RequestLimits
from soundstack.config.base import Config
from soundstack.config.cli import parse
from soundstack.config.steps import CrnnConfig, DeepSpectrumConfig, FuseConfig, MainConfig
from soundstack.config.tools import DownloadConfig
from soundstack.datasets import csv_table as custom
from soundstack.utils.errors import AudioError, ConfigError, DataError, SoundstackError

ROUND = 250
TARGETS = ("audio", "tables", "parameters")
#: A stranger's sound is never decoded without a bound; neither is a fuzzer's.
MAX_SECONDS = 60.0


@dataclass(frozen=True)
class Target:
    """A function under test: what it is given, and what it must do with it."""

    what: str
    strategy: st.SearchStrategy[Any]
    holds: Callable[[Any], None]


def run(seconds: float, seed: int, say: Callable[[str], object]) -> Part:
    """Fuzz every target for so many seconds."""
    part = Part("fuzz")
    with tempfile.TemporaryDirectory(prefix="soundstack-fuzz-") as folder:
        for target in targets(Path(folder)):
            count, failures = fuzz(target, seconds, seed)
            part.check(f"{target.what}: a result or an error in one line", failures, f"{count:,} examples")
            part.figures[f"{target.what.replace(' ', '_')}_examples"] = count
            say(f"fuzz: {target.what}: {count} examples, {len(failures)} failures")
    return part


def fuzz(target: Target, seconds: float, seed: int) -> tuple[int, list[str]]:
    """Give examples to a target, one round at least, until the time is up.

    Returns:
        Their number, and what failed first, shrunk.
    """
    deadline = time.monotonic() + seconds
    count = 0
    number = 0
    while number == 0 or time.monotonic() < deadline:

        @hypothesis.seed(seed * 1_000_003 + number)
        @settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            derandomize=False,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.generate, Phase.target, Phase.shrink),
        )
        @hypothesis.given(target.strategy)
        def example(value: Any) -> None:
            nonlocal count
            if count < ROUND or time.monotonic() < deadline:
                count += 1
                target.holds(value)

        try:
            example()
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            notes = " ".join(getattr(error, "__notes__", []))
            return count, [f"{said[:200]} for {notes[:400]}"]
        number += 1
    return count, []


def targets(folder: Path) -> list[Target]:
    """The functions under test; ``folder`` is theirs to write to."""
    (folder / "a.wav").write_bytes(clips().wav)
    audio, table, parameters = TARGETS
    return [
        Target(audio, sound_files(), _audio),
        Target(table, st.one_of(tables(), st.binary(max_size=300)), lambda content: _table(folder, content)),
        Target(parameters, command_lines(), _parameters),
    ]


def sound_files() -> st.SearchStrategy[bytes]:
    """Valid small files with some of their bytes overwritten, dropped or doubled; and plain bytes."""
    edit = st.tuples(st.floats(0, 1), st.sampled_from(("set", "cut", "insert", "repeat")), st.binary(max_size=8))

    def spoilt(args: tuple[bytes, list[tuple[float, str, bytes]]]) -> bytes:
        clip, edits = args
        for place, how, content in edits:
            # Squared: most of the damage goes into the header.
            at = int(place * place * len(clip))
            if how == "cut":
                clip = clip[:at] if not content else clip[:at] + clip[at + len(content) :]
            elif how == "repeat":
                clip = clip[:at] + clip[max(0, at - 64) :]
            else:
                clip = clip[:at] + content + clip[at + (len(content) if how == "set" else 0) :]
        return clip

    seeds = st.sampled_from(list(clips().small.values()))
    return st.one_of(st.tuples(seeds, st.lists(edit, min_size=1, max_size=4)).map(spoilt), st.binary(max_size=200))


def tables() -> st.SearchStrategy[bytes]:
    """Tables that are nearly right: the proper columns in any order, with odd cells, quotes and line ends."""
    names = st.sampled_from(("a.wav", "b.wav", "", "../a.wav", "/dev/null", "a.wav\x00", "a" * 300, "ä.wav", "."))
    cell = st.one_of(
        st.sampled_from(("", "1", "2", "test", "devel", "x", '"', "nan", "-1", "1e9", "²")), st.text(max_size=5)
    )
    columns = st.lists(st.sampled_from(("filename", "label", "fold", "split", "group", "FileName ", "")), max_size=6)
    row = st.tuples(names, st.lists(cell, max_size=6)).map(lambda parts: [parts[0], *parts[1]])
    end = st.sampled_from(("\n", "\r\n", "\r", "\n\n"))

    def written(args: tuple[list[str], list[list[str]], str]) -> bytes:
        head, rows, line_end = args
        lines = [",".join(head), *[",".join(row) for row in rows]]
        return line_end.join(lines).encode("utf-8", "surrogatepass")

    whole = st.lists(st.tuples(st.just("filename,label,fold"), st.text(max_size=20)), max_size=1)
    free = st.tuples(columns, st.lists(row, max_size=6), end).map(written)
    proper = st.tuples(st.just(["filename", "label", "fold"]), st.lists(row, max_size=6), end).map(written)
    return st.one_of(
        free, proper, whole.map(lambda parts: "\n".join("".join(pair) for pair in parts).encode("utf-8", "ignore"))
    )


_MODELS: tuple[type[Config], ...] = (MainConfig, CrnnConfig, DeepSpectrumConfig, FuseConfig, DownloadConfig)


def command_lines() -> st.SearchStrategy[tuple[type[Config], list[str]]]:
    """Arguments of an entry point: its own names with odd values, foreign names, and plain text."""
    odd = st.sampled_from(
        ("", " ", "0", "-1", "1e999", "nan", "inf", "9" * 400, "auto", "none", "{}", "[1", "null", "true", "--", "-",
         "\x00", "\n", "ä", "a" * 5000, "/", "~", "~nobody-of-this-name", "../..", "crnn,crnn", "*", "[", "x@y", "1.5")
    )  # fmt: skip
    value = st.one_of(odd, st.text(max_size=8), st.integers().map(str), st.floats().map(str))

    def arguments(model: type[Config]) -> st.SearchStrategy[tuple[type[Config], list[str]]]:
        name = st.one_of(st.sampled_from([f"--{field}" for field in model.model_fields]), st.text(max_size=6))
        pair = st.one_of(st.tuples(name, value), st.tuples(name), st.tuples(value))
        joined = st.tuples(name, value).map(lambda both: (f"{both[0]}={both[1]}",))
        return st.lists(st.one_of(pair, joined), max_size=4).map(
            lambda parts: (model, [word for part in parts for word in part if word not in ("-h", "--help")])
        )

    return st.sampled_from(_MODELS).flatmap(arguments)


def _one_line(error: SoundstackError) -> None:
    text = str(error)
    assert text.strip(), f"{type(error).__name__} says nothing"
    assert "\n" not in text, f"{type(error).__name__} says more than one line: {text[:200]!r}"


def _audio(content: bytes) -> None:
    try:
        samples, rate = decode(content, limits=RequestLimits(max_seconds=MAX_SECONDS))
    except AudioError as error:
        return _one_line(error)
    assert samples.dtype == np.float32, samples.dtype
    assert samples.ndim == 2, samples.shape
    assert samples.size, samples.shape
    assert rate > 0, rate
    assert np.isfinite(samples).all()
    spec = AudioSpec(8000, 0.5)
    examples = prepare(samples, rate, spec)
    assert examples.shape == (1, spec.samples), examples.shape
    return None


def _table(folder: Path, content: bytes) -> None:
    path = folder / "clips.csv"
    path.write_bytes(content)
    try:
        found = custom.load(path, seed=0)
    except DataError as error:
        return _one_line(error)
    assert found.clips
    assert all(clip.path.is_file() and clip.label and clip.fold for clip in found.clips)
    return None


def _parameters(given: tuple[type[Config], list[str]]) -> None:
    model, arguments = given
    try:
        config = parse(model, arguments)
    except ConfigError as error:
        return _one_line(error)
    assert isinstance(config, model)
    return None

"""The request that people are shown is typed into their own shell, whose tools are not everywhere the same."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from soundstack.evaluation.evaluation import RegisteredModel
from soundstack.evaluation.statistics import Interval
from soundstack.evaluation.tables import SystemScores
from soundstack.suites import summary
from soundstack.suites.runner import Outcome
from soundstack.tracking import card as cards
from test_cards import facts

PROJECT = Path(__file__).resolve().parents[1]
#: `base64` as macOS has it: options of GNU are refused, and nothing is wrapped. As GNU has it: lines of 76 characters.
TOOLS = {
    "macOS": "assert not sys.argv[1:], 'base64: invalid option'; print(base64.b64encode(content).decode())",
    "GNU": "print(base64.encodebytes(content).decode(), end='')",
}


def of_the_readme(capsys: pytest.CaptureFixture) -> str:
    return (PROJECT / "README.md").read_text(encoding="utf-8")


def of_a_card(capsys: pytest.CaptureFixture) -> str:
    return cards.card(facts())


def of_a_run(capsys: pytest.CaptureFixture) -> str:
    score = Interval(0.5, 0.4, 0.6)
    trained = RegisteredModel("demo-fusion", "1", True, SystemScores("demo-fusion", score, score, score, score))
    summary.after_main([Outcome("demo-fusion", 0, trained, 1.0)])
    return str(capsys.readouterr().out)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("text_of", [of_the_readme, of_a_card, of_a_run])
def test_the_request_that_is_shown_is_valid_json_with_the_base64_of_any_system(
    text_of: Callable[[pytest.CaptureFixture], str], tool: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (request,) = re.findall(r"\(printf .*?\)(?= \|\s+curl)", text_of(capsys), re.DOTALL)
    clip = bytes(range(256))
    (tmp_path / "CLIP.wav").write_bytes(clip)
    program = tmp_path / "base64"
    script = f"import base64, sys; content = sys.stdin.buffer.read(); {TOOLS[tool]}"
    program.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, "-I", "-c", script])} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    done = subprocess.run(
        ["sh", "-c", request],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    (row,) = json.loads(done.stdout)["dataframe_records"]
    assert base64.b64decode(row["audio"], validate=True) == clip

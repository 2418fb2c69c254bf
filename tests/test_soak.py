"""The soak bench: what it sends, what it notices, and a small campaign of each kind against the real thing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from soak_bench import abuse, fuzz, hostile, kills, workplace
from soak_bench.config import SoakConfig
from soak_bench.outcome import Curves, Part, write
from soak_bench.workplace import Result, StoredRun, Template, Undisturbed, Workplace
from soundstack.audio.decode import decode
from soundstack.audio.limits import RequestLimits
from soundstack.config.cli import parse
from waiting import PATIENCE


def quiet(text: str) -> None:
    """Take progress and say nothing."""


# what is sent ----------------------------------------------------------------------------------------------------


def test_the_same_seed_sends_the_same_requests_and_another_sends_others():
    first, again, other = (list(islice(hostile.stream(seed), 100)) for seed in (3, 3, 4))
    assert [(item.kind, item.detail) for item in first] == [(item.kind, item.detail) for item in again]
    # Encoders write serial numbers and times of their own into an OGG and a WAV of floats.
    stamped = ("OGG", "float WAV")
    for one, two in zip(first, again, strict=True):
        assert one == two or one.detail.startswith(stamped)
    assert [item.detail for item in first] != [item.detail for item in other]


def test_every_truncation_of_the_wav_is_sent_in_time():
    rng = np.random.default_rng(0)
    sent = {hostile.KINDS["truncated WAV"]((turn, rng))[0] for turn in range(hostile.truncations())}
    assert sent == {f"{length} bytes of a WAV" for length in range(hostile.truncations())}


def test_the_bomb_is_small_and_decodes_to_hours():
    zeros = hostile.clips().zeros
    assert len(zeros) < 1_000_000
    with pytest.raises(Exception, match=r"10,800\.0 s long"):
        decode(zeros, limits=RequestLimits())


def test_one_request_in_fifty_is_a_correct_one():
    known = [abuse.Known("a.wav", b"a", {}), abuse.Known("b.wav", b"b", {})]
    sent = list(abuse._queue(known, 500, seed=0))
    correct = [number for number, item in enumerate(sent, 1) if isinstance(item, abuse.Known)]
    assert correct == list(range(50, 501, 50))
    assert {item.name for item in sent if isinstance(item, abuse.Known)} == {"a.wav", "b.wav"}


# what is noticed -------------------------------------------------------------------------------------------------


def test_results_that_differ_in_the_last_bit_are_told_apart():
    one = Result({"csv-crnn": {"devel": 0.1}}, {"csv-crnn: test": "x"})
    assert one.differences(one) == []
    other = Result({"csv-crnn": {"devel": np.nextafter(0.1, 1)}}, {"csv-crnn: test": "y"})
    assert one.differences(other) == ["csv-crnn: devel", "csv-crnn: test"]
    assert one.differences(Result({}, {})) == ["csv-crnn: devel", "csv-crnn: test"]


def test_damaged_entries_of_a_cache_are_named(tmp_path: Path):
    shards, training = tmp_path / "features" / "kind-1", tmp_path / "training" / "key"
    for folder in (shards, training):
        folder.mkdir(parents=True)
    for name, rows in (("good", 2), ("short", 1)):
        np.save(shards / f"{name}.npy", np.zeros((rows, 3)))
        (shards / f"{name}.json").write_text(json.dumps(["a", "b"]))
    torch.save({"epoch": 1}, training / "fold-1.pt")
    (training / "fold-2.pt").write_bytes((training / "fold-1.pt").read_bytes()[:200])
    found = kills.damaged(tmp_path)
    assert sorted(Path(line.split(": ")[0]).name for line in found) == ["fold-2.pt", "short.json"]


def test_the_phase_of_a_kill_is_the_youngest_unfinished_run_of_its_own_process(monkeypatch: pytest.MonkeyPatch):
    runs = [
        StoredRun("1", "csv-main", "RUNNING", 1, 10, ""),
        StoredRun("2", "csv-extract", "FINISHED", 2, 10, ""),
        StoredRun("3", "csv-crnn", "RUNNING", 3, 10, ""),
        StoredRun("4", "csv-main", "RUNNING", 4, 11, ""),
        StoredRun("5", "csv-main", "FINISHED", 5, 12, ""),
    ]
    monkeypatch.setattr(Workplace, "runs", lambda self: runs)
    place = object.__new__(Workplace)
    assert kills.phase(place, 10) == "csv-crnn"
    assert kills.phase(place, 11) == "csv-main"
    assert kills.phase(place, 12) == "after the last run"
    assert kills.phase(place, 13) == "before the first run"


def test_a_kill_that_comes_too_late_is_made_up_for():
    ledger = kills.Ledger(2, duration=1.0)
    assert [ledger.take() for _ in range(4)] == [True, True, False, False]
    ledger.give_back()
    assert [ledger.take() for _ in range(2)] == [True, False]


def test_memory_that_grows_steadily_is_seen_and_a_plateau_is_not():
    assert abuse._growth([(n, 500 + 0.1 * n) for n in range(0, 1001, 10)]) == pytest.approx((50, 0.1))
    growth, slope = abuse._growth([(n, min(500 + n, 700)) for n in range(0, 1001, 10)])
    assert growth == pytest.approx(0, abs=1e-6)
    assert slope == pytest.approx(0, abs=1e-9)


def test_a_fuzzed_function_that_breaks_is_named_with_its_shrunk_example():
    def holds(number: int) -> None:
        assert number < 1000, "too large"

    count, failures = fuzz.fuzz(fuzz.Target("numbers", st.integers(), holds), seconds=5, seed=0)
    assert count > 0
    (failure,) = failures
    assert "too large" in failure
    assert "value=1000" in failure


def test_results_are_written_as_json_markdown_and_pictures(tmp_path: Path):
    part = Part("requests")
    part.check("nothing breaks", ["first | cell", "second"])
    part.check("all is well", True, "10 of them")
    part.skip("a full disk", "only root may mount")
    part.figures["requests"] = 10
    part.tables["Answers"] = [{"kind": "deep JSON", "400": 3}]
    part.curves["memory"] = Curves("requests", "MB", {"server": ([0, 1, 2], [5.0, 5.0, 6.0])})
    files = write([part], tmp_path)
    text = (tmp_path / "soak.md").read_text()
    assert "| **FAILED** | nothing breaks | first \\| cell; second |" in text
    assert "| skipped | a full disk | only root may mount |" in text
    assert json.loads((tmp_path / "soak.json").read_text())[0]["figures"] == {"requests": 10}
    assert all((tmp_path / file).stat().st_size > 0 for file in files)
    assert any(file.suffix == ".png" for file in files)
    assert [check.what for check in part.failed] == ["nothing breaks"]


def test_a_polite_kill_ends_a_process_and_a_stubborn_one_is_forced():
    def start(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    wait = "import signal, time; print('ready', flush=True); time.sleep(3600)"
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    assert workplace.end_group(start(wait), (15, 9), PATIENCE)
    stubborn = start(deaf)
    assert not workplace.end_group(stubborn, (15, 9), 1)
    assert stubborn.returncode == -9


def test_a_process_that_outlives_its_group_leader_is_noticed():
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    leader = subprocess.Popen([sys.executable, "-c", child], text=True, start_new_session=True)
    leader.wait(PATIENCE)
    assert kills.outlived(leader, patience=0.5)
    alone = subprocess.Popen([sys.executable, "-c", ""], text=True, start_new_session=True)
    alone.wait(PATIENCE)
    assert not kills.outlived(alone, patience=PATIENCE)


def test_the_bench_takes_its_parameters():
    config = parse(SoakConfig, ["--what", "kills", "--kills", "3"])
    assert (config.wants("kills"), config.wants("load")) == (True, False)
    assert SoakConfig().wants("faults")


# small campaigns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["audio", "tables", "parameters"])
def test_fuzzed_input_gives_a_result_or_an_error_in_one_line(tmp_path: Path, name: str):
    (target,) = [target for target in fuzz.targets(tmp_path) if target.what == name]
    count, failures = fuzz.fuzz(target, seconds=0.1, seed=1)
    assert failures == []
    assert count >= 100


@pytest.fixture(scope="module")
def reference(store_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A workplace where the whole project has run once, undisturbed."""
    template = Template(tmp_path_factory.mktemp("soak"), store=store_file)
    return workplace.undisturbed(template, epochs=2, trials=1)[0]


@pytest.mark.e2e
def test_a_main_that_is_killed_three_times_scores_as_an_undisturbed_one(reference: Undisturbed):
    part = kills.run(reference.place.template, reference, kills=3, seed=0, say=quiet, chains=1)
    assert [(check.what, check.detail) for check in part.failed] == []
    assert part.figures["kills"] == 3
    assert part.figures["mains_completed"] >= 1
    assert len(part.tables["Kills"]) == 3


@pytest.mark.e2e
def test_hostile_requests_do_not_disturb_the_server(reference: Undisturbed):
    part = abuse.run(reference.place, 200, seed=0, say=quiet)
    assert [(check.what, check.detail) for check in part.failed] == []
    assert part.figures["correct_requests"] == 4
    kinds = Counter(str(row["kind"]) for row in part.tables["Answers by kind"])
    assert set(kinds) == {"correct", *hostile.KINDS}

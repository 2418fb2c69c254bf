"""Extraction into the cache: nothing is done twice, and an interrupted run ends where a whole one would have."""

import csv
import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import soundfile

from soundstack.audio import decode as audio
from soundstack.config.base import DataConfig
from soundstack.datasets.open_data_set import open_data_set
from soundstack.features import extract as features
from soundstack.features.extract import Extraction
from soundstack.features.make import Recipe, TwoStageTransform
from soundstack.features.store import FeatureStore
from soundstack.utils import slices
from soundstack.utils.errors import DataError
from waiting import PATIENCE

BINS = 16


def data_set_of(table, cache, **options):
    return open_data_set(DataConfig(dataset="csv", data_dir=str(table), cache_dir=str(cache), jobs=2, **options))


def spectrum(waves):
    """A cheap transform: magnitudes of a short FFT, averaged over the clip."""
    frames = waves[:, : waves.shape[1] // (2 * BINS) * 2 * BINS].reshape(len(waves), -1, 2 * BINS)
    return np.abs(np.fft.rfft(frames)).mean(axis=1)[:, :BINS].astype(np.float32)


@dataclass(frozen=True)
class Given(Recipe):
    """A recipe whose transform is given."""

    make: Callable[[], TwoStageTransform]

    def make_transform(self):
        return self.make()


def never():
    pytest.fail("the transform was built though nothing was missing")


def keys_of(data_set):
    return [example.key for example in data_set.examples]


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(slices, "SLICE", 4)


@pytest.fixture
def table(tmp_path, tiny_csv):
    return tiny_csv(tmp_path / "data")  # 15 clips


def run(data_set, cache, transform=spectrum, **options):
    store = FeatureStore(cache, "spectrum", {"bins": BINS})
    recipe = Given(store, data_set.audio, lambda: TwoStageTransform(batch=transform))
    return Extraction(lambda spec: recipe, jobs=2).finish(data_set, **options).report, store


def test_features_are_those_of_the_clips_in_the_order_of_the_data_set(table, tmp_path, small_slices):
    data_set = data_set_of(table, tmp_path / "cache")
    report, store = run(data_set, tmp_path / "cache")
    assert (report.made, report.reused) == (15, 0)
    read = store.read(keys_of(data_set))
    for clip, row in zip(data_set.clips, read, strict=True):
        wave = soundfile.read(clip.path, dtype="float32")[0]
        np.testing.assert_allclose(row, spectrum(wave[None])[0], rtol=1e-6)


def test_the_second_run_skips_everything_and_builds_no_network(table, tmp_path):
    data_set = data_set_of(table, tmp_path / "cache")
    run(data_set, tmp_path / "cache")
    store = FeatureStore(tmp_path / "cache", "spectrum", {"bins": BINS})
    done = []
    report = Extraction(lambda spec: Given(store, spec, never), jobs=2).finish(data_set, done.append).report
    assert (report.made, report.reused, sum(done)) == (0, 15, 15)


def test_a_clip_is_decoded_once_whatever_its_channels_and_taken_through_the_first_stage_alone(
    tmp_path, tiny_csv, small_slices, monkeypatch
):
    data_set = data_set_of(tiny_csv(tmp_path / "data", channels=2), tmp_path / "cache", channels="each")
    decode, decoded, first, second = audio.decode, [], [], []
    monkeypatch.setattr(audio, "decode", lambda path: (decoded.append(path), decode(path))[1])

    def clip_stage(waves):
        first.append(len(waves))
        return waves * 2

    def batch_stage(doubled):
        second.append(len(doubled))
        return spectrum(doubled / 2)

    store = FeatureStore(tmp_path / "cache", "spectrum", {"bins": BINS})
    stages = TwoStageTransform(clip_stage, batch_stage, names=("double", "sum"))
    report = Extraction(lambda spec: Given(store, spec, lambda: stages), jobs=2).finish(data_set).report
    assert list(report.seconds) == ["decode", "double", "sum", "store"]
    assert min(report.seconds.values()) > 0
    assert sorted(decoded) == sorted(clip.path for clip in data_set.clips)
    assert first == [2] * 15
    assert second == [8, 8, 8, 6]
    _, plain = run(data_set, tmp_path / "plain")
    np.testing.assert_allclose(store.read(keys_of(data_set)), plain.read(keys_of(data_set)), rtol=1e-6)


# with the scan ---------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """The number of times that sound was decoded, by its content."""
    counted, decode = Counter(), audio.decode

    def count(source, **options):
        content = source if isinstance(source, bytes) else source.read_bytes()
        counted[hashlib.sha256(content).hexdigest()[:32]] += 1
        return decode(source, **options)

    monkeypatch.setattr(audio, "decode", count)
    return counted


def with_the_scan(table, cache, transform=spectrum, **options):
    """Scan and extract in one; the data set, what was made, and the store."""

    def plan(spec):
        store = FeatureStore(cache, "spectrum", {"bins": BINS, "audio": spec.to_json()})
        return Given(store, spec, lambda: TwoStageTransform(batch=transform))

    begun = Extraction(plan, jobs=2)
    config = DataConfig(dataset="csv", data_dir=str(table), cache_dir=str(cache), jobs=2, **options)
    data_set = open_data_set(config, begun)
    made = begun.finish(data_set)
    return data_set, made.report, made.recipe.store


@pytest.mark.parametrize("given", [{}, {"clip_seconds": 0.5, "sample_rate": 8000}], ids=["auto", "given"])
@pytest.mark.parametrize("channels", ["mean", "each"])
def test_a_new_file_is_decoded_once_and_its_features_are_those_of_a_later_extraction(
    tmp_path, tiny_csv, small_slices, decoded, given, channels
):
    table = tiny_csv(tmp_path / "data", channels=2)
    data_set, report, store = with_the_scan(table, tmp_path / "cache", channels=channels, **given)
    assert set(decoded.values()) == {1}
    assert len(decoded) == 15
    count = len(data_set.examples)
    assert (report.made, report.reused) == (count, 0)
    later = data_set_of(table, tmp_path / "later", channels=channels)
    _, expected = run(later, tmp_path / "later")
    assert store.read(keys_of(data_set)).tobytes() == expected.read(keys_of(later)).tobytes()
    assert [len(json.loads(path.read_text())) for path in sorted(store.folder.glob("[0-9a-f]*.json"))] == [
        len(json.loads(path.read_text())) for path in sorted(expected.folder.glob("[0-9a-f]*.json"))
    ]


def test_the_run_after_that_decodes_and_builds_nothing(table, tmp_path, decoded):
    with_the_scan(table, tmp_path / "cache")
    decoded.clear()
    _, report, _ = with_the_scan(table, tmp_path / "cache", transform=never)
    assert (report.made, report.reused, sum(decoded.values())) == (0, 15, 0)


def test_files_that_were_touched_are_looked_at_again_but_no_network_is_built(table, tmp_path):
    with_the_scan(table, tmp_path / "cache")
    for path in table.parent.glob("*.wav"):
        os.utime(path, (1, 1))
    _, report, _ = with_the_scan(table, tmp_path / "cache", transform=never)
    assert (report.made, report.reused) == (0, 15)


def test_what_cannot_be_held_back_is_decoded_again_and_no_feature_differs(
    table, tmp_path, small_slices, decoded, monkeypatch
):
    monkeypatch.setattr(features, "HELD_BYTES", 5 * 4000 * 4)  # 5 clips: of the second slice, some
    data_set, report, store = with_the_scan(table, tmp_path / "cache")
    assert (report.made, report.reused) == (15, 0)
    assert 0 < list(decoded.values()).count(2) < 15
    _, expected = run(data_set, tmp_path / "later")
    assert store.read(keys_of(data_set)).tobytes() == expected.read(keys_of(data_set)).tobytes()


def test_a_clip_that_is_longer_than_the_first_ones_makes_all_anew(table, tmp_path, small_slices, monkeypatch):
    monkeypatch.setattr(features, "HELD_BYTES", 5 * 4000 * 4)
    soundfile.write(table.parent / "pitch2-test-0.wav", np.linspace(-0.5, 0.5, 8000), 8000)  # the last one
    data_set, report, store = with_the_scan(table, tmp_path / "cache")
    assert data_set.audio.seconds == 1.0
    assert (report.made, report.reused) == (15, 0)
    _, expected = run(data_set, tmp_path / "later")
    assert store.read(keys_of(data_set)).tobytes() == expected.read(keys_of(data_set)).tobytes()


@pytest.mark.parametrize("killed_at", [1, 3])
def test_killed_with_the_scan_it_ends_where_a_whole_run_does_bit_for_bit(table, tmp_path, small_slices, killed_at):
    given = {"clip_seconds": 0.5, "sample_rate": 8000, "on_error": "skip"}
    (table.parent / "pitch1-1-0.wav").write_bytes(b"damaged")  # slices are cut as if it were there
    calls = []

    def transform(waves):
        calls.append(len(waves))
        return spectrum(waves)

    def killed(waves):
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return transform(waves)

    _, _, whole = with_the_scan(table, tmp_path / "whole", transform, **given)
    sizes = calls.copy()
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        with_the_scan(table, tmp_path / "killed", killed, **given)
    data_set, report, resumed = with_the_scan(table, tmp_path / "killed", transform, **given)
    assert sum(sizes) == 14
    assert calls == sizes
    assert report.reused == sum(sizes[:killed_at])
    assert resumed.read(keys_of(data_set)).tobytes() == whole.read(keys_of(data_set)).tobytes()
    calls.clear()
    run(data_set, tmp_path / "later", transform)
    assert calls == sizes


def test_a_damaged_file_ends_the_run_and_what_was_made_before_it_is_kept(table, tmp_path, small_slices):
    given = {"clip_seconds": 0.5, "sample_rate": 8000}
    damaged = table.parent / "pitch2-1-0.wav"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    with pytest.raises(DataError, match="pitch2-1-0"):
        with_the_scan(table, tmp_path / "cache", **given)
    damaged.write_bytes(whole)
    _, report, _ = with_the_scan(table, tmp_path / "cache", **given)
    assert (report.made, report.reused) == (7, 8)


def test_a_sound_that_occurs_twice_is_made_once_with_the_scan_too(table, tmp_path):
    shutil.copy(table.parent / "pitch0-1-0.wav", table.parent / "copy.wav")
    with table.open("a") as file:
        file.write("copy.wav,pitch0,1\n")
    data_set, report, store = with_the_scan(table, tmp_path / "cache")
    assert (report.made, report.reused) == (15, 1)
    assert len(store.read(keys_of(data_set))) == 16


def test_progress_ends_at_the_number_of_clips(table, tmp_path, small_slices):
    done = []
    run(data_set_of(table, tmp_path / "cache"), tmp_path / "cache", progress=done.append)
    assert sum(done) == 15


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_resumed_extraction_equals_an_uninterrupted_one_bit_for_bit(table, tmp_path, small_slices, killed_at):
    from soundstack.spectrograms.log_mel import LogMel, SpectrogramSpec

    log_mel = LogMel(SpectrogramSpec(8000))
    calls = []

    def transform(waves):
        calls.append(len(waves))
        return log_mel(waves)

    def killed(waves):
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return transform(waves)

    data_set = data_set_of(table, tmp_path / "scan")
    _, whole = run(data_set, tmp_path / "whole", transform)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run(data_set, tmp_path / "killed", killed)
    report, resumed = run(data_set, tmp_path / "killed", transform)
    assert report.reused == sum(calls[:killed_at])
    assert calls == [4, 4, 4, 3]
    expected, found = whole.read(keys_of(data_set)), resumed.read(keys_of(data_set))
    assert expected.tobytes() == found.tobytes()


def test_renamed_and_relabelled_clips_are_taken_from_the_cache(table, tmp_path):
    data_set = data_set_of(table, tmp_path / "cache")
    run(data_set, tmp_path / "cache")
    moved = tmp_path / "elsewhere"
    shutil.copytree(table.parent, moved)
    for path in moved.glob("*.wav"):
        path.rename(path.with_name(f"renamed-{path.name}"))
    rows = list(csv.reader(table.open()))
    with (moved / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [rows[0], *([f"renamed-{name}", f"other-{label}", fold] for name, label, fold in rows[1:])]
        )
    report, _ = run(data_set_of(moved / "clips.csv", tmp_path / "cache"), tmp_path / "cache")
    assert (report.made, report.reused) == (0, 15)


def test_an_edited_sound_file_is_made_anew_and_no_other(table, tmp_path):
    _, store = run(data_set_of(table, tmp_path / "cache"), tmp_path / "cache")
    soundfile.write(table.parent / "pitch0-1-0.wav", np.linspace(-0.5, 0.5, 4000), 8000)
    data_set = data_set_of(table, tmp_path / "cache")
    report, store = run(data_set, tmp_path / "cache")
    assert (report.made, report.reused) == (1, 14)
    position = [clip.id for clip in data_set.clips].index("pitch0-1-0.wav")
    wave = soundfile.read(table.parent / "pitch0-1-0.wav", dtype="float32")[0]
    np.testing.assert_allclose(store.read(keys_of(data_set))[position], spectrum(wave[None])[0], rtol=1e-6)


def test_a_sound_that_occurs_twice_is_made_once(table, tmp_path):
    shutil.copy(table.parent / "pitch0-1-0.wav", table.parent / "copy.wav")
    with table.open("a") as file:
        file.write("copy.wav,pitch0,1\n")
    data_set = data_set_of(table, tmp_path / "cache")
    assert len(data_set.examples) == 16
    report, store = run(data_set, tmp_path / "cache")
    assert report.made == 15
    assert len(store.read(keys_of(data_set))) == 16


def test_with_each_channel_an_example_clips_may_have_different_numbers_of_channels(tmp_path, tiny_csv, small_slices):
    table = tiny_csv(tmp_path / "data", channels=2)
    mono = np.linspace(-0.5, 0.5, 4000)
    soundfile.write(table.parent / "pitch1-2-0.wav", mono, 8000)
    data_set = data_set_of(table, tmp_path / "cache", channels="each")
    assert len(data_set.examples) == 29
    report, store = run(data_set, tmp_path / "cache")
    assert report.made == 29
    read = store.read(keys_of(data_set))
    for example, row in zip(data_set.examples, read, strict=True):
        path = data_set.clips[example.clip].path
        wave = soundfile.read(path, dtype="float32", always_2d=True)[0][:, example.channel]
        np.testing.assert_allclose(row, spectrum(wave[None])[0], rtol=1e-6)
    means = data_set.clip_means(read)
    assert means.shape == (15, BINS)
    for number in range(15):
        own = [row for example, row in zip(data_set.examples, read, strict=True) if example.clip == number]
        np.testing.assert_allclose(means[number], np.mean(own, axis=0), rtol=1e-6)


def test_clip_means_of_one_example_a_clip_are_the_scores_themselves(table, tmp_path):
    data_set = data_set_of(table, tmp_path / "cache")
    scores = np.random.default_rng(0).random((15, 3))
    np.testing.assert_array_equal(data_set.clip_means(scores), scores)


def test_a_file_damaged_after_the_scan_is_named(table, tmp_path):
    data_set = data_set_of(table, tmp_path / "cache")
    (table.parent / "pitch2-3-0.wav").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"pitch2-3-0\.wav.*run again") as caught:
        run(data_set, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def _extract_in_a_process(table, cache, start, results):
    """What each of two processes does; a top-level function, so that a spawned process can find it."""
    data_set = data_set_of(table, cache)
    calls = []

    def transform(waves):
        calls.append(len(waves))
        return spectrum(waves)

    start.wait(PATIENCE)
    report, store = run(data_set, cache, transform)
    results.put((report.made, report.reused, sum(calls), store.read(keys_of(data_set)).tobytes()))


def test_two_processes_that_extract_the_same_data_set_do_the_work_once(table, tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    arguments = (table, tmp_path / "cache", start, results)
    processes = [context.Process(target=_extract_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = results.get(timeout=PATIENCE), results.get(timeout=PATIENCE)
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert sorted([first[:3], second[:3]]) == [(0, 15, 0), (15, 0, 15)]
    assert first[3] == second[3]

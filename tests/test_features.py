"""Extraction into the cache: nothing is done twice, and an interrupted run ends where a whole one would have."""

import csv
import multiprocessing
import shutil

import numpy as np
import pytest
import soundfile

from soundstack import features
from soundstack.cache import FeatureStore
from soundstack.config import DataConfig
from soundstack.datasets.corpus import open_corpus
from soundstack.errors import DataError
from soundstack.features import Stages, clip_means, extract

BINS = 16


def corpus_of(table, cache, **options):
    return open_corpus(DataConfig(dataset="csv", data_dir=str(table), cache_dir=str(cache), jobs=2, **options))


def spectrum(waves):
    """A cheap transform: magnitudes of a short FFT, averaged over the clip."""
    frames = waves[:, : waves.shape[1] // (2 * BINS) * 2 * BINS].reshape(len(waves), -1, 2 * BINS)
    return np.abs(np.fft.rfft(frames)).mean(axis=1)[:, :BINS].astype(np.float32)


def never():
    pytest.fail("the transform was built though nothing was missing")


def keys_of(corpus):
    return [example.key for example in corpus.examples]


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(features, "SLICE", 4)


@pytest.fixture
def table(tmp_path, tiny_csv):
    return tiny_csv(tmp_path / "data")  # 15 clips


def run(corpus, cache, transform=spectrum, **options):
    store = FeatureStore(cache, "spectrum", {"bins": BINS})
    return extract(corpus, store, lambda: transform, corpus.audio, jobs=2, **options), store


def test_features_are_those_of_the_clips_in_corpus_order(table, tmp_path, small_slices):
    corpus = corpus_of(table, tmp_path / "cache")
    report, store = run(corpus, tmp_path / "cache")
    assert (report.made, report.reused) == (15, 0)
    read = store.read(keys_of(corpus))
    for clip, row in zip(corpus.clips, read, strict=True):
        wave = soundfile.read(clip.path, dtype="float32")[0]
        np.testing.assert_allclose(row, spectrum(wave[None])[0], rtol=1e-6)


def test_the_second_run_skips_everything_and_builds_no_network(table, tmp_path):
    corpus = corpus_of(table, tmp_path / "cache")
    run(corpus, tmp_path / "cache")
    store = FeatureStore(tmp_path / "cache", "spectrum", {"bins": BINS})
    done = []
    report = extract(corpus, store, never, corpus.audio, jobs=2, progress=done.append)
    assert (report.made, report.reused, sum(done)) == (0, 15, 15)


def test_a_clip_is_decoded_once_whatever_its_channels_and_taken_through_the_first_stage_alone(
    tmp_path, tiny_csv, small_slices, monkeypatch
):
    corpus = corpus_of(tiny_csv(tmp_path / "data", channels=2), tmp_path / "cache", channels="each")
    load, decoded, first, second = features.audio.load, [], [], []
    monkeypatch.setattr(features.audio, "load", lambda path, spec: (decoded.append(path), load(path, spec))[1])

    def clip_stage(waves):
        first.append(len(waves))
        return waves * 2

    def batch_stage(doubled):
        second.append(len(doubled))
        return spectrum(doubled / 2)

    store = FeatureStore(tmp_path / "cache", "spectrum", {"bins": BINS})
    stages = Stages(clip_stage, batch_stage, names=("double", "sum"))
    report = extract(corpus, store, lambda: stages, corpus.audio, jobs=2)
    assert list(report.seconds) == ["decode", "double", "sum", "store"]
    assert min(report.seconds.values()) > 0
    assert sorted(decoded) == sorted(clip.path for clip in corpus.clips)
    assert first == [2] * 15
    assert second == [8, 8, 8, 6]
    _, plain = run(corpus, tmp_path / "plain")
    np.testing.assert_allclose(store.read(keys_of(corpus)), plain.read(keys_of(corpus)), rtol=1e-6)


def test_progress_ends_at_the_number_of_clips(table, tmp_path, small_slices):
    done = []
    run(corpus_of(table, tmp_path / "cache"), tmp_path / "cache", progress=done.append)
    assert sum(done) == 15


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_resumed_extraction_equals_an_uninterrupted_one_bit_for_bit(table, tmp_path, small_slices, killed_at):
    from soundstack.spectrogram import LogMel, SpectrogramSpec

    log_mel = LogMel(SpectrogramSpec(8000))
    calls = []

    def transform(waves):
        calls.append(len(waves))
        return log_mel(waves)

    def killed(waves):
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return transform(waves)

    corpus = corpus_of(table, tmp_path / "scan")
    _, whole = run(corpus, tmp_path / "whole", transform)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run(corpus, tmp_path / "killed", killed)
    report, resumed = run(corpus, tmp_path / "killed", transform)
    assert report.reused == sum(calls[:killed_at])
    assert calls == [4, 4, 4, 3]
    expected, found = whole.read(keys_of(corpus)), resumed.read(keys_of(corpus))
    assert expected.tobytes() == found.tobytes()


def test_renamed_and_relabelled_clips_are_taken_from_the_cache(table, tmp_path):
    corpus = corpus_of(table, tmp_path / "cache")
    run(corpus, tmp_path / "cache")
    moved = tmp_path / "elsewhere"
    shutil.copytree(table.parent, moved)
    for path in moved.glob("*.wav"):
        path.rename(path.with_name(f"renamed-{path.name}"))
    rows = list(csv.reader(table.open()))
    with (moved / "clips.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [rows[0], *([f"renamed-{name}", f"other-{label}", fold] for name, label, fold in rows[1:])]
        )
    report, _ = run(corpus_of(moved / "clips.csv", tmp_path / "cache"), tmp_path / "cache")
    assert (report.made, report.reused) == (0, 15)


def test_an_edited_sound_file_is_made_anew_and_no_other(table, tmp_path):
    _, store = run(corpus_of(table, tmp_path / "cache"), tmp_path / "cache")
    soundfile.write(table.parent / "pitch0-1-0.wav", np.linspace(-0.5, 0.5, 4000), 8000)
    corpus = corpus_of(table, tmp_path / "cache")
    report, store = run(corpus, tmp_path / "cache")
    assert (report.made, report.reused) == (1, 14)
    position = [clip.id for clip in corpus.clips].index("pitch0-1-0.wav")
    wave = soundfile.read(table.parent / "pitch0-1-0.wav", dtype="float32")[0]
    np.testing.assert_allclose(store.read(keys_of(corpus))[position], spectrum(wave[None])[0], rtol=1e-6)


def test_a_sound_that_occurs_twice_is_made_once(table, tmp_path):
    shutil.copy(table.parent / "pitch0-1-0.wav", table.parent / "copy.wav")
    with table.open("a") as file:
        file.write("copy.wav,pitch0,1\n")
    corpus = corpus_of(table, tmp_path / "cache")
    assert len(corpus.examples) == 16
    report, store = run(corpus, tmp_path / "cache")
    assert report.made == 15
    assert len(store.read(keys_of(corpus))) == 16


def test_with_each_channel_an_example_clips_may_have_different_numbers_of_channels(tmp_path, tiny_csv, small_slices):
    table = tiny_csv(tmp_path / "data", channels=2)
    mono = np.linspace(-0.5, 0.5, 4000)
    soundfile.write(table.parent / "pitch1-2-0.wav", mono, 8000)
    corpus = corpus_of(table, tmp_path / "cache", channels="each")
    assert len(corpus.examples) == 29
    report, store = run(corpus, tmp_path / "cache")
    assert report.made == 29
    read = store.read(keys_of(corpus))
    for example, row in zip(corpus.examples, read, strict=True):
        path = corpus.clips[example.clip].path
        wave = soundfile.read(path, dtype="float32", always_2d=True)[0][:, example.channel]
        np.testing.assert_allclose(row, spectrum(wave[None])[0], rtol=1e-6)
    means = clip_means(corpus, read)
    assert means.shape == (15, BINS)
    for number in range(15):
        own = [row for example, row in zip(corpus.examples, read, strict=True) if example.clip == number]
        np.testing.assert_allclose(means[number], np.mean(own, axis=0), rtol=1e-6)


def test_clip_means_of_one_example_a_clip_are_the_scores_themselves(table, tmp_path):
    corpus = corpus_of(table, tmp_path / "cache")
    scores = np.random.default_rng(0).random((15, 3))
    np.testing.assert_array_equal(clip_means(corpus, scores), scores)


def test_a_file_damaged_after_the_scan_is_named(table, tmp_path):
    corpus = corpus_of(table, tmp_path / "cache")
    (table.parent / "pitch2-3-0.wav").write_bytes(b"gone")
    with pytest.raises(DataError, match=r"pitch2-3-0\.wav.*run again") as caught:
        run(corpus, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def _extract_in_a_process(table, cache, start, results):
    """What each of two processes does; a top-level function, so that a spawned process can find it."""
    corpus = corpus_of(table, cache)
    calls = []

    def transform(waves):
        calls.append(len(waves))
        return spectrum(waves)

    start.wait(timeout=60)
    report, store = run(corpus, cache, transform)
    results.put((report.made, report.reused, sum(calls), store.read(keys_of(corpus)).tobytes()))


def test_two_processes_that_extract_the_same_corpus_do_the_work_once(table, tmp_path):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    arguments = (table, tmp_path / "cache", start, results)
    processes = [context.Process(target=_extract_in_a_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = results.get(timeout=120), results.get(timeout=120)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert sorted([first[:3], second[:3]]) == [(0, 15, 0), (15, 0, 15)]
    assert first[3] == second[3]

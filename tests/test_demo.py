"""The demo data set: the sounds, the files, and that nothing but the sound tells its classes apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from scipy import signal
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from soundstack.datasets.clips import ClipTable
from soundstack.datasets.demo import dataset as demo
from soundstack.datasets.demo.synthesis import SOUNDS, synthesise
from soundstack.utils.errors import DataError, StoreError

FEW = 2  # clips per class and fold: one source with two takes

# Samples 1000, 3000, 5000 and 7000 of each sound at RMS 1, from the seeds 0 (source) and 1 (take).
GOLDEN = {
    "bell": (0.942, 0.761, 0.876, -1.445),
    "bird_song": (-1.087, -0.200, 0.058, -0.894),
    "clock": (1.955, -0.454, 1.726, 0.856),
    "engine": (0.766, 0.800, -2.032, 0.145),
    "footsteps": (0.491, -0.668, 0.818, 0.274),
    "knocking": (-1.139, 0.662, 1.594, 0.716),
    "rain": (1.645, 0.691, -1.359, 0.313),
    "sea_waves": (-0.830, -1.840, -1.260, -0.353),
    "siren": (-0.877, -0.351, 0.848, -1.820),
    "wind": (-0.390, -0.682, -0.811, -0.593),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    demo.write(folder, clips_per_class_and_fold=FEW)
    return folder


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of a quarter second, for tests of the files rather than the sounds."""
    monkeypatch.setattr(demo, "SECONDS", 0.25)


@pytest.fixture(scope="module")
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SECONDS", 0.25)
        demo.write(folder, clips_per_class_and_fold=FEW)
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> ClipTable:
    return demo.load(folder)


@pytest.fixture(scope="module")
def waves(data: ClipTable) -> NDArray[np.float32]:
    """(clips, samples)"""
    return np.stack([soundfile.read(clip.path, dtype="float32")[0] for clip in data.clips])


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def sound(kind: str, source: int, take: int, seconds: float = 1.0) -> NDArray[np.float32]:
    return synthesise(kind, np.random.default_rng(source), np.random.default_rng(take), seconds, 16_000)


def devel_accuracy(data: ClipTable, features: NDArray[np.floating], classifier: Callable) -> float:
    """Leave-one-fold-out accuracy over all five folds: 100 clips are few enough."""
    labels = np.array([clip.label for clip in data.clips])
    folds = np.array([clip.fold for clip in data.clips])
    right = 0
    for fold in np.unique(folds):
        held_out = folds == fold
        model = make_pipeline(StandardScaler(), classifier()).fit(features[~held_out], labels[~held_out])
        right += int(np.sum(model.predict(features[held_out]) == labels[held_out]))
    return right / len(labels)


def decibels(power: NDArray[np.floating]) -> NDArray[np.floating]:
    return 10 * np.log10(power + 1e-12)


def spectra(waves: NDArray[np.float32]) -> NDArray[np.floating]:
    """Mean and deviation over time of a log spectrum in 32 bands, and how its loudness moves: (clips, 69)"""
    *_, stft = signal.stft(waves, nperseg=512, noverlap=256)
    power = np.abs(stft[:, 1:]) ** 2  # (clips, 256, frames)
    edges = np.unique(np.geomspace(1, 256, 33).astype(int))
    bands = decibels(np.add.reduceat(power, edges[:-1] - 1, axis=1))
    bands -= bands.max(axis=(1, 2), keepdims=True)
    loudness = decibels(power.sum(axis=1))
    moves = np.percentile(np.diff(loudness, axis=1), [1, 25, 50, 75, 99], axis=1).T
    return np.concatenate([bands.mean(axis=2), bands.std(axis=2), moves], axis=1)


# --- The sounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_depends_on_its_random_draws_alone(kind: str) -> None:
    np.testing.assert_array_equal(sound(kind, 1, 2), sound(kind, 1, 2))
    assert not np.array_equal(sound(kind, 1, 2), sound(kind, 1, 3))
    assert not np.array_equal(sound(kind, 1, 2), sound(kind, 4, 2))


@pytest.mark.parametrize("kind", SOUNDS)
def test_the_formulas_are_still_the_same(kind: str) -> None:
    """Changed on purpose? Renew the table; every demo is then made anew, since its folder is found by its code."""
    wave = sound(kind, 0, 1, 0.5).astype(float)
    wave /= np.sqrt(np.mean(wave**2))
    np.testing.assert_allclose(wave[1000::2000], GOLDEN[kind], atol=0.01)


@pytest.mark.parametrize("kind", SOUNDS)
def test_a_sound_is_finite_unclipped_and_free_of_dc(kind: str) -> None:
    for seed in range(5):
        wave = sound(kind, seed, 100 + seed)
        assert wave.shape == (16_000,)
        assert wave.dtype == np.float32
        assert np.isfinite(wave).all()
        assert 0.01 < np.abs(wave).max() < 1
        assert abs(wave.mean()) < 1e-5


@pytest.mark.parametrize(("seconds", "sample_rate"), [(0.1, 16_000), (1.37, 8_000), (0.5, 44_100)])
def test_every_sound_can_be_made_at_other_lengths_and_rates(seconds: float, sample_rate: int) -> None:
    for kind in SOUNDS:
        wave = synthesise(kind, np.random.default_rng(0), np.random.default_rng(1), seconds, sample_rate)
        assert wave.shape == (round(seconds * sample_rate),)
        assert np.isfinite(wave).all()


def test_two_takes_of_a_source_are_alike() -> None:
    """Among the takes of four sources of a class, a take's nearest neighbour is mostly of its own source."""
    found = []
    for kind in SOUNDS:
        first = spectra(np.stack([sound(kind, source, 10, 2.0) for source in range(4)]))
        second = spectra(np.stack([sound(kind, source, 11, 2.0) for source in range(4)]))
        shape = [part - part.mean(axis=1, keepdims=True) for part in (first[:, :32], second[:, :32])]
        distance = np.linalg.norm(shape[0][:, None] - shape[1][None], axis=2)
        found += list(distance.argmin(axis=1) == np.arange(4))
    assert np.mean(found) > 0.6  # chance: 0.25


def test_place_and_level_are_drawn_before_the_kind_of_sound() -> None:
    levels = {round(float(np.sqrt(np.mean(sound(kind, 5, 6).astype(float) ** 2))), 6) for kind in SOUNDS}
    assert len(levels) == 1


def test_a_clock_ticks_steadily_and_knuckles_do_not() -> None:
    """Onset intervals of the dry sounds: the classes that share spectra differ in rhythm."""

    def unevenness(kind: str, seed: int) -> float:
        dry = SOUNDS[kind](np.random.default_rng(seed), np.random.default_rng(seed), 8 * 16_000, 16_000)
        envelope = np.abs(dry).reshape(-1, 160).max(axis=1)  # 10 ms
        onsets, _ = signal.find_peaks(envelope, height=0.25 * envelope.max(), distance=8)
        intervals = np.diff(onsets)
        return float(intervals.std() / intervals.mean())

    seeds = range(12)
    clock = np.median([unevenness("clock", seed) for seed in seeds])
    knocking = np.median([unevenness("knocking", seed) for seed in seeds])
    assert clock < 0.1 < 0.4 < knocking


def test_sirens_birds_and_bells_are_tonal_and_weather_is_not() -> None:
    def flatness(kind: str, seed: int) -> float:
        dry = SOUNDS[kind](np.random.default_rng(seed), np.random.default_rng(seed), 4 * 16_000, 16_000)
        *_, stft = signal.stft(dry, nperseg=1024)
        power = np.abs(stft[10:]) ** 2 + 1e-12
        loudest = power[:, power.sum(axis=0) >= np.percentile(power.sum(axis=0), 80)]
        return float(np.mean(np.exp(np.log(loudest).mean(axis=0)) / loudest.mean(axis=0)))

    tonal = [flatness(kind, seed) for kind in ("siren", "bird_song", "bell") for seed in range(6)]
    noisy = [flatness(kind, seed) for kind in ("rain", "sea_waves") for seed in range(6)]
    assert max(tonal) < min(noisy)


# --- The data set -------------------------------------------------------------------------------------------


def test_every_class_has_its_clips_in_every_fold(data: ClipTable) -> None:
    assert data.labels == demo.LABELS
    assert len(data.labels) == 10
    assert data.folds == ("1", "2", "3", "4")
    counts = Counter((clip.label, clip.fold) for clip in data.clips)
    assert set(counts.values()) == {FEW}
    assert len(counts) == 10 * 5
    assert len(data.test) == 10 * FEW


def test_the_default_is_400_clips_in_200_sources() -> None:
    rows = list(demo._plan(8))
    assert len(rows) == 400
    assert set(Counter(row.group for row in rows).values()) == {2}


def test_both_takes_of_a_source_lie_in_one_fold(data: ClipTable) -> None:
    for group in {clip.group for clip in data.clips}:
        takes = [clip for clip in data.clips if clip.group == group]
        assert len(takes) == 2
        assert len({(clip.fold, clip.label) for clip in takes}) == 1


def test_all_clips_have_the_same_length_rate_and_format(data: ClipTable) -> None:
    infos = [soundfile.info(str(clip.path)) for clip in data.clips]
    assert {(i.frames, i.samplerate, i.channels, i.subtype) for i in infos} == {(64_000, 16_000, 1, "PCM_16")}
    assert (data.seconds, data.sample_rate) == (4.0, 16_000)


def test_level_offset_and_quiet_do_not_tell_the_class(data: ClipTable, waves: NDArray[np.float32]) -> None:
    frames = (waves.reshape(len(waves), -1, 800) ** 2).mean(axis=2)
    level = decibels((waves**2).mean(axis=1))
    hints = {
        "level": level,
        "peak": 20 * np.log10(np.abs(waves).max(axis=1)),
        "offset": waves.mean(axis=1),
        "noise floor": np.percentile(decibels(frames), 5, axis=1),
        "zeros": (waves == 0).mean(axis=1),
    }
    assert level.max() - level.min() > 15
    # Chance is 0.10 with a standard error of 0.03 for 100 clips.
    for name, hint in hints.items():
        accuracy = devel_accuracy(data, hint[:, None], lambda: KNeighborsClassifier(5))
        assert accuracy <= 0.21, f"{name} alone is right in {accuracy:.0%}"


def test_the_sound_does_tell_the_class(data: ClipTable, waves: NDArray[np.float32]) -> None:
    accuracy = devel_accuracy(data, spectra(waves), lambda: LinearSVC(C=0.01))
    assert 0.3 < accuracy < 0.95, "the demo should be learnable from a few clips, but not solved by them"


def test_every_class_is_told_from_every_other_by_its_formula() -> None:
    """Dry sounds of 20 sources a class: a linear SVM finds each class far above chance."""
    kinds = list(SOUNDS)
    dry = [
        [SOUNDS[kind](np.random.default_rng(n), np.random.default_rng(n), 32_000, 16_000) for n in range(20)]
        for kind in kinds
    ]
    waves = np.array(dry).reshape(-1, 32_000)
    features = spectra((waves / waves.std(axis=1, keepdims=True)).astype(np.float32))
    labels, parts = np.repeat(kinds, 20), np.tile(np.arange(20) % 3, len(kinds))
    predicted = np.empty_like(labels)
    for part in range(3):
        model = make_pipeline(StandardScaler(), LinearSVC(C=0.01)).fit(features[parts != part], labels[parts != part])
        predicted[parts == part] = model.predict(features[parts == part])
    for kind in kinds:
        assert np.mean(predicted[labels == kind] == kind) > 0.4, kind


# --- Writing ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("short")
def test_the_same_seed_gives_the_same_bytes_whatever_the_jobs(short_folder: Path, tmp_path: Path) -> None:
    demo.write(tmp_path, clips_per_class_and_fold=FEW, jobs=1)
    assert contents(tmp_path) == contents(short_folder)


@pytest.mark.usefixtures("short")
def test_a_clip_does_not_depend_on_how_many_there_are(short_folder: Path, tmp_path: Path) -> None:
    demo.write(tmp_path, clips_per_class_and_fold=1)
    fewer, more = contents(tmp_path), contents(short_folder)
    assert all(more[name] == fewer[name] for name in fewer if name.endswith(".wav"))


@pytest.mark.usefixtures("short")
def test_an_interrupted_write_is_continued_to_the_same_bytes(short_folder: Path, tmp_path: Path) -> None:
    done = 0

    def interrupt(count: int) -> None:
        nonlocal done
        done += count
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo.write(tmp_path, clips_per_class_and_fold=FEW, jobs=1, progress=interrupt)
    with pytest.raises(DataError, match="No complete demo data set"):
        demo.load(tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.wav")}
    assert 20 <= len(kept) < 100
    torn = next(iter(kept))  # as a full disc or a power cut may leave it
    torn.write_bytes(torn.read_bytes()[:1000])
    del kept[torn]

    reports: list[int] = []
    demo.write(tmp_path, clips_per_class_and_fold=FEW, progress=reports.append)
    assert reports == [len(kept), *[1] * (100 - len(kept))]
    assert contents(tmp_path) == contents(short_folder)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())


@pytest.mark.usefixtures("short")
def test_a_complete_folder_is_left_alone(short_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in short_folder.rglob("*")}
    reports: list[int] = []
    demo.write(short_folder, clips_per_class_and_fold=FEW, progress=reports.append)
    assert reports == [100]
    assert {path: path.stat().st_mtime_ns for path in short_folder.rglob("*")} == before


@pytest.mark.usefixtures("short")
def test_a_lost_clip_is_reported_and_made_again(tmp_path: Path) -> None:
    demo.write(tmp_path, clips_per_class_and_fold=1)
    lost = demo.load(tmp_path).clips[7].path
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(DataError, match=lost.name):
        demo.load(tmp_path)
    demo.write(tmp_path, clips_per_class_and_fold=1)
    assert lost.read_bytes() == content


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cache_dir"):
        demo.write(tmp_path / "file" / "demo")


@pytest.mark.parametrize("table", ["filename,fold\na.wav,1\n", "filename,label,fold,group,take\na.wav,1\n", "\x00"])
def test_a_damaged_table_is_refused(tmp_path: Path, table: str) -> None:
    (tmp_path / demo.TABLE).write_text(table)
    with pytest.raises(DataError):
        demo.load(tmp_path)

"""Long sound: where the windows lie, however it comes, and that a clip is the mean of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from soundstack.audio.decode import decode
from soundstack.audio.windows import TAIL, window_frames, windows
from soundstack.recognisers.base import Recogniser
from soundstack.recognisers.timelines import Timeline, read, timelines
from test_audio import encoded
from test_recognisers import LABELS, RATE, crnn


def spans(frames: int, rate: int, seconds: float) -> list[tuple[int, int]]:
    """First and past-the-last frame of every window of a clip, by the rule for a clip that is there as a whole."""
    length, hop = window_frames(rate, seconds)
    if frames <= length:
        return [(0, frames)]
    whole = [(start, start + length) for start in range(0, frames - length + 1, hop)]
    if frames - whole[-1][1] > TAIL * length:
        whole.append((frames - length, frames))
    return whole


def timeline_of_the_whole(recogniser: Recogniser, source: Path | bytes) -> Timeline:
    """What a recogniser says of a clip that is decoded as a whole, cut, and scored at once."""
    samples, rate = decode(source)
    cut = spans(len(samples), rate, recogniser.seconds)
    scores = recogniser.scores([(samples[start:stop], rate) for start, stop in cut])
    starts, ends = np.array(cut, dtype=np.float64).T / rate
    return Timeline(len(samples) / rate, starts, ends, scores, recogniser.probabilities(scores))


@given(st.integers(1, 200_000), st.sampled_from([8000, 16000, 44100]), st.floats(0.1, 5))
def test_windows_cover_the_clip_but_for_a_short_tail(frames: int, rate: int, seconds: float) -> None:
    length, hop = window_frames(rate, seconds)
    found = spans(frames, rate, seconds)
    assert found[0][0] == 0
    assert all(0 <= start < stop <= frames for start, stop in found)
    assert all(stop - start == min(length, frames) for start, stop in found)
    assert all(0 < after[0] - before[0] <= hop for before, after in itertools.pairwise(found))
    assert frames - found[-1][1] <= TAIL * length


@given(st.integers(1, 3000), st.sampled_from([100, 441]), st.floats(0.05, 3), st.lists(st.integers(1, 700), min_size=1))
def test_sound_that_comes_in_blocks_is_cut_as_the_whole_would_be(
    frames: int, rate: int, seconds: float, sizes: list[int]
) -> None:
    sound = np.arange(2 * frames, dtype=np.float32).reshape(frames, 2)
    blocks, at = [], 0
    while at < frames:
        blocks.append(sound[at : at + sizes[at % len(sizes)]])
        at += len(blocks[-1])
    cuts = list(windows(blocks, rate, seconds))
    assert [(cut.start, cut.stop) for cut in cuts] == spans(frames, rate, seconds)
    for cut in cuts:
        np.testing.assert_array_equal(cut.samples, sound[cut.start : cut.stop])


def test_a_clip_of_the_training_length_or_a_little_more_is_one_window() -> None:
    def found(frames: int) -> list[tuple[int, int]]:
        return [cut[:2] for cut in windows([np.zeros((frames, 1), dtype=np.float32)], 8000, 1.0)]

    assert found(8000) == [(0, 8000)]
    assert found(8700) == [(0, 8000)]
    assert found(100) == [(0, 100)]
    assert found(9000) == [(0, 8000), (1000, 9000)]
    assert found(16000) == [(0, 8000), (4000, 12000), (8000, 16000)]


def test_a_long_clip_is_the_mean_of_its_windows_and_a_short_one_is_as_it_was() -> None:
    recogniser = crnn()
    noise = 0.1 * np.random.default_rng(0).standard_normal((int(3.3 * RATE), 1)).astype(np.float32)
    clips = [encoded(sound, RATE, subtype="FLOAT") for sound in (noise, noise[: int(0.5 * recogniser.seconds * RATE)])]
    parts = itertools.chain.from_iterable(read(number, clip, recogniser) for number, clip in enumerate(clips))
    found = dict(timelines(parts, recogniser))
    for number, clip in enumerate(clips):
        timeline, expected = found[number], timeline_of_the_whole(recogniser, clip)
        assert isinstance(timeline, Timeline)
        assert timeline.seconds == expected.seconds
        np.testing.assert_array_equal(timeline.starts, expected.starts)
        np.testing.assert_array_equal(timeline.ends, expected.ends)
        np.testing.assert_allclose(timeline.scores, expected.scores, atol=1e-6)
        np.testing.assert_allclose(timeline.mean_probabilities, expected.probabilities.mean(axis=0), atol=1e-6)
        assert timeline.mean_probabilities.shape == (len(LABELS),)

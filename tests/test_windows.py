"""Long sound: where the windows lie, and that a clip is the mean of them."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from soundstack.audio.windows import TAIL, spans, timelines, window_frames
from test_recognisers import LABELS, RATE, crnn


@given(st.integers(1, 200_000), st.sampled_from([8000, 16000, 44100]), st.floats(0.1, 5))
def test_windows_cover_the_clip_but_for_a_short_tail(frames: int, rate: int, seconds: float) -> None:
    length, hop = window_frames(rate, seconds)
    found = spans(frames, rate, seconds)
    assert found[0][0] == 0
    assert all(0 <= start < stop <= frames for start, stop in found)
    assert all(stop - start == min(length, frames) for start, stop in found)
    assert all(0 < after[0] - before[0] <= hop for before, after in itertools.pairwise(found))
    assert frames - found[-1][1] <= TAIL * length


def test_a_clip_of_the_training_length_or_a_little_more_is_one_window() -> None:
    assert spans(8000, 8000, 1.0) == [(0, 8000)]
    assert spans(8700, 8000, 1.0) == [(0, 8000)]
    assert spans(100, 8000, 1.0) == [(0, 100)]
    assert spans(9000, 8000, 1.0) == [(0, 8000), (1000, 9000)]
    assert spans(16000, 8000, 1.0) == [(0, 8000), (4000, 12000), (8000, 16000)]


def test_a_long_clip_is_the_mean_of_its_windows_and_a_short_one_is_as_it_was() -> None:
    recogniser = crnn()
    noise = 0.1 * np.random.default_rng(0).standard_normal((int(3.3 * RATE), 1)).astype(np.float32)
    short = noise[: int(0.5 * recogniser.seconds * RATE)]
    long, brief = timelines(recogniser, [(noise, RATE), (short, RATE)])
    parts = spans(len(noise), RATE, recogniser.seconds)
    each = np.concatenate([recogniser.scores([(noise[start:stop], RATE)]) for start, stop in parts])
    np.testing.assert_allclose(long.scores, each, atol=1e-6)
    np.testing.assert_allclose(long.starts * RATE, [start for start, _ in parts])
    np.testing.assert_allclose(long.ends * RATE, [stop for _, stop in parts])
    np.testing.assert_allclose(long.mean_probabilities, long.probabilities.mean(axis=0))
    assert long.mean_probabilities.shape == (len(LABELS),)
    np.testing.assert_allclose(brief.scores, recogniser.scores([(short, RATE)]), atol=1e-6)

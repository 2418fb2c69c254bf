"""From an encoded sound file to examples of equal length: the project's audio policy, in one place.

===================  ==================================================================================
what comes           what happens
===================  ==================================================================================
any format           WAV (also RF64, W64), FLAC, OGG (Vorbis, Opus, FLAC, Speex), MP3, AIFF, AU, CAF, M4A, MP4,
                     MOV, 3GP, AAC, WMA, WebM, Matroska, WavPack, AMR, NIST; told by its content, not by its name;
                     8 to 64 bit and float, decoded to float32 in -1..1
several tracks       the one that players choose; pictures and films are passed over
several channels     ``mean``: averaged; ``first``: the first; ``each``: one example a channel
another rate         resampled to the nominal rate (soxr, high quality); Opus always has 48 kHz
another form within  refused: a file whose rate or channels change
shorter / longer     zero-padded at the end / cropped to the nominal length
silent               kept; counted and reported
empty                refused
truncated            refused where the header tells; of what has no length (MP3 without a length header, Ogg between
                     two pages, live recordings) a shortened one is a shorter clip
damaged              refused; of MP3 and AAC, which find their feet again, where over 1 % of the parts are bad
NaN or infinite      refused, and so are values beyond any integer's full scale (powers would overflow)
over the limits      refused by its header where the header tells, and never decoded beyond the limit
===================  ==================================================================================

What a header says of the length is never taken for the end of the sound: all that follows is read, as in joined MP3s
and chained Ogg. Refused clips raise :class:`AudioError`; data-set steps name the file and, with ``on_error=skip``, go
on without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soxr

from soundstack.audio.decoder import Samples, SoundReader
from soundstack.audio.limits import UNLIMITED, RequestLimits

Channels = Literal["mean", "first", "each"]


@dataclass(frozen=True)
class AudioSpec:
    """What the networks of one data set are fed: rate in Hz, length in seconds, and how channels are treated."""

    sample_rate: int
    seconds: float
    channels: Channels = "mean"

    @property
    def samples(self) -> int:
        """Number of samples of an example."""
        return max(1, round(self.sample_rate * self.seconds))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        return asdict(self)


def decode(source: Path | bytes, *, limits: RequestLimits = UNLIMITED) -> tuple[Samples, int]:
    """Decode a whole sound file, given by its path or its bytes, as :class:`SoundReader` does, with its errors.

    Returned are samples (frames, channels), float32 in -1..1 (float files may exceed that), and the rate in Hz.
    """
    with SoundReader(source, limits) as sound:
        samples = np.concatenate(list(sound.blocks()))
        return samples, sound.rate


def prepare(samples: Samples, rate: int, spec: AudioSpec) -> Samples:
    """Bring decoded sound (frames, channels) into float32 examples: (1, spec.samples), or one a channel with "each"."""
    examples = samples.T
    if spec.channels == "first":
        examples = examples[:1]
    elif spec.channels == "mean" and len(examples) > 1:
        examples = samples.mean(axis=1, dtype=np.float32)[None]
    length = spec.samples
    # Resampling what will be cropped away is wasted: keep a margin for the filter's ends, crop again after.
    longest = int((spec.seconds + 0.5) * rate) + 1
    examples = np.ascontiguousarray(examples[:, :longest])
    if rate != spec.sample_rate:
        resampled = soxr.resample(examples.T, rate, spec.sample_rate, quality="HQ")
        examples = np.ascontiguousarray(np.asarray(resampled, dtype=np.float32).reshape(-1, len(examples)).T)
    if examples.shape[1] < length:
        return np.pad(examples, ((0, 0), (0, length - examples.shape[1])))
    return examples[:, :length]

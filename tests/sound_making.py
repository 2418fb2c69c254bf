"""Encoded sound of many kinds, made by FFmpeg's and libsndfile's encoders."""

import io

import av
import numpy as np
import soundfile

RATE = 16_000


def wave(seconds=2.0, rate=RATE, channels=1):
    """A tone with a little noise, (frames, channels)."""
    time = np.arange(round(seconds * rate))[:, None] / rate
    tone = 0.4 * np.sin(2 * np.pi * 440 * time + np.arange(channels))
    return (tone + 0.02 * np.random.default_rng(0).standard_normal(tone.shape)).astype(np.float32)


def by_sndfile(file_format, subtype=None, samples=None, rate=RATE, **options):
    stream = io.BytesIO()
    soundfile.write(
        stream, wave() if samples is None else samples, rate, format=file_format, subtype=subtype, **options
    )
    return stream.getvalue()


class _Pipe:
    """What cannot go back to fill in a header."""

    def __init__(self):
        self.written = []

    def write(self, content):
        self.written.append(bytes(content))
        return len(content)


def by_ffmpeg(container, codec, rate=RATE, samples=None, *, pipe=False, tracks=1, **options):
    """Encode samples (frames, channels) with an encoder of FFmpeg's."""
    samples = wave(rate=rate) if samples is None else samples
    stream, written = io.BytesIO(), _Pipe()
    layout = "stereo" if samples.shape[1] == 2 else "mono"
    with av.open(written if pipe else stream, "w", format=container, options=options) as output:
        for _ in range(tracks):
            track = output.add_stream(codec, rate=rate, layout=layout)
            if codec == "wmav2":
                track.codec_context.bit_rate = 64_000
        context = track.codec_context
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        fifo = av.AudioFifo()
        for part in av.AudioResampler(format=context.format, layout=layout, rate=rate).resample(frame):
            fifo.write(part)
        parts = []
        while (part := fifo.read(context.frame_size or 1024, partial=True)) is not None:
            parts.append(part)
        for track in output.streams:
            for part in [*parts, None]:
                output.mux(track.encode(part))
    return b"".join(written.written) if pipe else stream.getvalue()


#: Kinds whose header or parts tell that a half is missing: what makes them.
TOLD = {
    **{name: (lambda name=name: by_sndfile(name)) for name in ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF")},
    **{name: (lambda name=name: by_sndfile(name)) for name in ("FLAC", "OGG", "MP3", "NIST")},
    "RIFX": lambda: by_sndfile("WAV", endian="BIG"),
    "WAV, mu-law": lambda: by_sndfile("WAV", "ULAW"),
    "WAV, ADPCM": lambda: by_sndfile("WAV", "IMA_ADPCM"),
    "WAV, GSM": lambda: by_sndfile("WAV", "GSM610", wave(rate=8000), 8000),
    "AIFC": lambda: by_sndfile("AIFF", "ALAW"),
    "CAF, ALAC": lambda: by_sndfile("CAF", "ALAC_16"),
    "Ogg, Opus": lambda: by_sndfile("OGG", "OPUS"),
    "Ogg, FLAC": lambda: by_ffmpeg("ogg", "flac"),
    "WAV, 64 bit": lambda: by_ffmpeg("wav", "pcm_s64le"),
    "FLAC, piped": lambda: by_ffmpeg("flac", "flac", pipe=True),
    "M4A": lambda: by_ffmpeg("ipod", "aac", 44_100),
    "M4A, ALAC": lambda: by_ffmpeg("ipod", "alac"),
    "MP4, fragmented": lambda: by_ffmpeg("mp4", "aac", 44_100, movflags="frag_keyframe+empty_moov"),
    "MOV": lambda: by_ffmpeg("mov", "pcm_s16le"),
    "3GP": lambda: by_ffmpeg("3gp", "libopencore_amrnb", 8000),
    "AAC": lambda: by_ffmpeg("adts", "aac", 44_100),
    "AMR": lambda: by_ffmpeg("amr", "libopencore_amrnb", 8000),
    "WebM": lambda: by_ffmpeg("webm", "libopus", 48_000),
    "Matroska": lambda: by_ffmpeg("matroska", "flac"),
    "WMA": lambda: by_ffmpeg("asf", "wmav2", 44_100, wave(rate=44_100, channels=2)),
    "WavPack": lambda: by_ffmpeg("wv", "wavpack"),
}
#: Kinds in which a half is a shorter clip.
UNTOLD = {
    "WAV, piped": lambda: by_ffmpeg("wav", "pcm_s16le", pipe=True),
    "AU, piped": lambda: by_ffmpeg("au", "pcm_s16be", pipe=True),
    "WebM, live": lambda: by_ffmpeg("webm", "libopus", 48_000, live="1"),
    "MP3 without a length": lambda: by_ffmpeg("mp3", "libmp3lame", 44_100, write_xing="0"),
}
KINDS = TOLD | UNTOLD

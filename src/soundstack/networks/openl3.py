"""openl3: the audio half of a network trained to match sound and picture (paper section 3.3, [28, 29]).

The clip is cut into windows of 1 s, every 0.1 s, the first centred on the clip's begin; each becomes a
log-mel spectrogram and then an embedding, and the clip's embedding is their mean. The version is that of the
paper's time (openl3 up to 0.3.1, weights v0_2_0): release 0.4 changed the mel scale and the padding, and with
them the embeddings. Content type ``env`` (environmental sounds), 256 or 128 mel bands.

Modules have the names of the torch port's checkpoints (torchopenl3-models, Apache-2.0), whose tensors for the
spectrogram are not needed. Written from the published description and the checkpoints' keys and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from soundstack.audio.mel import mel_filters
from soundstack.networks.registry import Network, network
from soundstack.networks.weights import without_front_end
from soundstack.utils import deadlines

SAMPLE_RATE = 48_000
WINDOW = 48_000  # samples: 1 s
HOP = 4_800  # samples: 0.1 s
WINDOWS_AT_ONCE = 16  # bounds the memory: a window's widest activation takes 13 MB

_FFT = 2048
_FFT_HOP = 242
_PADDING = 982  # zeros on both sides of a window, by Keras's "same": ceil(48000 / 242) = 199 frames
_FLOOR = -80.0  # dB under the window's maximum


@network(
    {
        # The publisher states no checksums.
        "openl3_mel256_env_512": {
            "dim": 512,
            "url": "https://github.com/torchopenl3/torchopenl3-models/raw/master/torchopenl3_mel256_env_512.pth.tar",
        },
        "openl3_mel256_env_6144": {
            "dim": 6144,
            "url": "https://github.com/torchopenl3/torchopenl3-models/raw/master/torchopenl3_mel256_env_6144.pth.tar",
        },
        "openl3_mel128_env_512": {
            "dim": 512,
            "url": "https://github.com/torchopenl3/torchopenl3-models/raw/master/torchopenl3_mel128_env_512.pth.tar",
        },
        "openl3_mel128_env_6144": {
            "dim": 6144,
            "url": "https://github.com/torchopenl3/torchopenl3-models/raw/master/torchopenl3_mel128_env_6144.pth.tar",
        },
    },
    input="waveform",
    sample_rate=48_000,
    pretraining="audioset",
    layer="audio_embedding_layer, max-pooled",
    licence="Apache-2.0",
    citation="Cramer et al., Look, listen, and learn more: design choices for deep audio embeddings, 2019 [28, 29]",
)
class OpenL3Family(Network):
    """The checkpoints of all variants have the same keys."""

    def create(self) -> OpenL3:
        return OpenL3(self._bands, self.spec.dim)

    def adapt(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        bins = _FFT // 2 + 1
        front_end = {
            "speclayer.dft_real_kernels": (bins, 1, _FFT),
            "speclayer.dft_imag_kernels": (bins, 1, _FFT),
            "speclayer.mel_basis": (self._bands, bins),  # the shape of this one alone tells 256 bands from 128
        }
        return without_front_end(state, front_end, source)

    @property
    def _bands(self) -> int:
        return 256 if "mel256" in self.spec.name else 128


class OpenL3LogMel(nn.Module):
    """Windows (N, 48000) at 48 kHz -> log-mel spectrograms (N, 1, bands, 199) in dB, 0 at each one's maximum.

    Zeros on both sides, frames of 2048 samples every 242, not centred, periodic Hann,
    power; bands from 0 to 24000 Hz (HTK scale, area norm); square root; 10 log10 with a floor of 1e-10;
    relative to the maximum; at least -80.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands
        with torch.device("cpu"):  # constants: wanted even where the network is laid out on the meta device
            # In float64 first: float32 is off by 6e-4 at the window's ends, which is all that a clip's onset
            # touches.
            window = torch.hann_window(_FFT, periodic=True, dtype=torch.float64).float()
            filters = torch.from_numpy(mel_filters(SAMPLE_RATE, _FFT, bands, "htk")).float()
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)  # (bands, bins)

    def forward(self, windows: Tensor) -> Tensor:
        """See the class."""
        with torch.autocast(windows.device.type, enabled=False):  # bfloat16 is too coarse for decibels
            spectrum = torch.stft(
                F.pad(windows.float(), (_PADDING, _PADDING)),
                n_fft=_FFT,
                hop_length=_FFT_HOP,
                window=self.window,
                center=False,
                return_complex=True,
            )  # (N, bins, 199)
            power = spectrum.real.square() + spectrum.imag.square()
            mel = (self.filters @ power).sqrt()  # (N, bands, 199)
            decibel = 10 * torch.log10(mel.clamp(min=1e-10))
            decibel = decibel - decibel.amax(dim=(1, 2), keepdim=True)
            return decibel.clamp(min=_FLOOR)[:, None]


class OpenL3(nn.Module):
    """The audio network.

    Args:
        bands: of the log-mel spectrograms, 256 or 128.
        size: of an embedding, 512 or 6144.
    """

    def __init__(self, bands: int, size: int) -> None:
        super().__init__()
        # The last pool, (bands, frames), of the (bands / 8, 24) that are left by then.
        self.pool = (bands // 8, 24) if size == 512 else (bands // 32, 8)
        self.log_mel = OpenL3LogMel(bands)
        self.batch_normalization_1 = _batch_norm(1)
        inputs = 1
        for number, outputs in enumerate((64, 64, 128, 128, 256, 256, 512), start=1):
            self.add_module(f"conv2d_{number}", nn.Conv2d(inputs, outputs, kernel_size=3, padding=1))
            self.add_module(f"batch_normalization_{number + 1}", _batch_norm(outputs))
            inputs = outputs
        self.audio_embedding_layer = nn.Conv2d(512, 512, kernel_size=3, padding=1)
        self._initialise()

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms float32 (N, samples), mono, -1..1, 48 kHz -> embeddings float32 (N, 512 or 6144)."""
        return self.by_windows(waveforms, lambda windows: self.embed(self.log_mel(windows)))

    @staticmethod
    def by_windows(waveforms: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """Embeddings (N, dim) of waveforms (N, samples): the mean of those that ``embed`` gives windows (B, 48000)."""
        windows = frame(waveforms)  # (N, W, 48000), a view
        count = windows.shape[0] * windows.shape[1]
        embeddings = []
        for start in range(0, count, WINDOWS_AT_ONCE):
            deadlines.check()
            chosen = torch.arange(start, min(start + WINDOWS_AT_ONCE, count), device=waveforms.device)
            batch = windows[chosen // windows.shape[1], chosen % windows.shape[1]]  # copies these windows only
            embeddings.append(embed(batch).float())
        return torch.cat(embeddings).unflatten(0, windows.shape[:2]).mean(dim=1)  # over the clip's windows

    def embed(self, spectrograms: Tensor) -> Tensor:
        """Log-mel spectrograms (N, 1, bands, 199) -> the windows' embeddings (N, 512 or 6144)."""
        x = self.batch_normalization_1(spectrograms)
        for number in range(1, 8):
            x = self.get_submodule(f"conv2d_{number}")(x)
            x = F.relu_(self.get_submodule(f"batch_normalization_{number + 1}")(x))
            if number in (2, 4, 6):
                x = F.max_pool2d(x, 2)
        x = self.audio_embedding_layer(x)  # (N, 512, bands / 8, 24): neither batch norm nor ReLU
        x = F.max_pool2d(x, self.pool)
        return x.permute(0, 2, 3, 1).flatten(1)  # in the order of Keras: band, frame, channel

    def _initialise(self) -> None:
        """The published initialisation: He's normal one, cut at two deviations as in Keras; biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                # Cut at two deviations, a normal distribution keeps 0.8796 of its deviation: made up for, as
                # Keras does.
                deviation = math.sqrt(2 / fan_in) / 0.87962566103423978
                nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
                assert module.bias is not None
                nn.init.zeros_(module.bias)


def frame(waveforms: Tensor) -> Tensor:
    """Cut (N, samples) into windows (N, W, 48000), a view of the padded waveforms.

    Half a window of zeros comes in front, so that the first is centred on the clip's begin, and as many at
    the end as the last window lacks. 5 s give 46 windows, 10 s give 96.
    """
    samples = waveforms.shape[1] + WINDOW // 2
    hops = max(0, -(-(samples - WINDOW) // HOP))
    padded = F.pad(waveforms, (WINDOW // 2, WINDOW + hops * HOP - samples))
    return padded.unfold(1, WINDOW, HOP)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)  # Keras's

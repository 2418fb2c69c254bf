"""PANNs: convolutional networks trained on AudioSet (paper section 3.3, reference [30]).

Waveforms at 32 kHz become 64 log-mel bands, which a stack of convolution blocks turns into one embedding a
clip. The headline network, Wavegram-Logmel-Cnn14, joins to the log-mel branch a second one that learns its
own time-frequency picture from the raw waveform: the *wavegram* of the paper's text.

Modules have the names of the published checkpoints (Zenodo record 3987831, CC BY 4.0), whose three tensors
for the spectrogram are not needed: torchaudio's differs from theirs by at most 8e-5 dB. Dropout is left out.
Written from the published description and the checkpoints' keys and
shapes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torchaudio.functional
from torch import Tensor, nn
from torch.nn import functional as F

from soundstack.networks.registry import Network, network
from soundstack.networks.stages import Step
from soundstack.networks.weights import without_front_end

SAMPLE_RATE = 32_000
_FFT = 1024
_HOP = 320
_BANDS = 64
_TAGS = 527  # of AudioSet

# The checkpoint of the 16 kHz variant has the same keys: only the shapes of these tell it apart.
_FRONT_END = {
    "spectrogram_extractor.stft.conv_real.weight": (_FFT // 2 + 1, 1, _FFT),
    "spectrogram_extractor.stft.conv_imag.weight": (_FFT // 2 + 1, 1, _FFT),
    "logmel_extractor.melW": (_FFT // 2 + 1, _BANDS),
}


@network(
    {
        "panns_wavegram_logmel_cnn14": {
            "dim": 2048,
            "url": "https://zenodo.org/record/3987831/files/Wavegram_Logmel_Cnn14_mAP%3D0.439.pth?download=1",
            "md5": "17fa9ab65af3c0eb5ffbc5f65552c4e1",
        },
        "panns_cnn14": {
            "dim": 2048,
            "url": "https://zenodo.org/record/3987831/files/Cnn14_mAP%3D0.431.pth?download=1",
            "md5": "541141fa2ee191a88f24a3219fff024e",
            "size": 327_428_481,
        },
        "panns_cnn10": {
            "dim": 512,
            "url": "https://zenodo.org/record/3987831/files/Cnn10_mAP%3D0.380.pth?download=1",
            "md5": "bfb1f1f9968938fa8ef4012b8471f5f6",
        },
    },
    input="waveform",
    sample_rate=32_000,
    pretraining="audioset",
    layer="fc1, after ReLU",
    licence="CC-BY-4.0",
    citation="Kong et al., PANNs: large-scale pretrained audio neural networks for audio pattern recognition, "
    "2020 [30]",
)
class PannsFamily(Network):
    """Nothing is dropped, so that a saved network has the published keys; the tags are not computed."""

    def create(self) -> Panns:
        widths = (64, 128, 256, 512) + (() if self.spec.name == "panns_cnn10" else (1024, 2048))
        return Panns(widths, wavegram="wavegram" in self.spec.name)

    def adapt(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        return without_front_end(state, _FRONT_END, source)


class PannsLogMel(nn.Module):
    """Waveforms (N, samples) at 32 kHz -> log-mel spectrograms (N, frames, 64) in dB.

    Centred frames of 1024 samples every 320, reflect padding, periodic Hann, power; 64 bands 50..14000 Hz
    (Slaney scale and norm); 10 log10 with a floor of 1e-10 under the power.
    """

    window: Tensor
    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.device("cpu"):  # constants: wanted even where the network is laid out on the meta device
            window = torch.hann_window(_FFT, periodic=True)
            filters = torchaudio.functional.melscale_fbanks(
                _FFT // 2 + 1, 50.0, 14_000.0, _BANDS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
            )
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", filters, persistent=False)  # (bins, 64)

    def forward(self, waveforms: Tensor) -> Tensor:
        """See the class."""
        with torch.autocast(waveforms.device.type, enabled=False):  # bfloat16 would cost 0.02 dB here
            power = torchaudio.functional.spectrogram(
                waveforms.float(),
                pad=0,
                window=self.window,
                n_fft=_FFT,
                hop_length=_HOP,
                win_length=_FFT,
                power=2.0,
                normalized=False,
                center=True,
                pad_mode="reflect",
            )  # (N, bins, frames)
            mel = power.transpose(1, 2) @ self.filters  # (N, frames, 64)
            return 10 * torch.log10(mel.clamp(min=1e-10))


class ConvBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, ReLU; then an average pool: (N, i, T, F) -> (N, o, T/p, F/q)."""

    def __init__(self, inputs: int, outputs: int, pool: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.relu_(self.bn2(self.conv2(x)))
        return x if self.pool == (1, 1) else F.avg_pool2d(x, self.pool)


class WaveBlock(nn.Module):
    """Two 1-D convolutions, the second dilated, then a max pool of 4: (N, i, L) -> (N, o, L/4)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel_size=3, padding=2, dilation=2, bias=False)
        self.bn2 = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.relu_(self.bn2(self.conv2(x)))
        return F.max_pool1d(x, 4)


class Panns(nn.Module):
    """Cnn10, Cnn14 or Wavegram-Logmel-Cnn14.

    Args:
        widths: output channels of the convolution blocks. Each pools 2x2, but a sixth does not.
        wavegram: whether the branch on the raw waveform is there.
    """

    def __init__(self, widths: tuple[int, ...], *, wavegram: bool) -> None:
        super().__init__()
        self.wavegram = wavegram
        if wavegram:
            self.pre_conv0 = nn.Conv1d(1, 64, kernel_size=11, stride=5, padding=5, bias=False)
            self.pre_bn0 = nn.BatchNorm1d(64)
            self.pre_block1 = WaveBlock(64, 64)
            self.pre_block2 = WaveBlock(64, 128)
            self.pre_block3 = WaveBlock(128, 128)
            self.pre_block4 = ConvBlock(4, widths[0], pool=(2, 1))
        self.log_mel = PannsLogMel()
        self.bn0 = nn.BatchNorm2d(_BANDS)
        inputs = 1
        for number, outputs in enumerate(widths, start=1):
            block = ConvBlock(inputs, outputs, pool=(2, 2) if number < 6 else (1, 1))
            self.add_module(f"conv_block{number}", block)
            inputs = 2 * outputs if wavegram and number == 1 else outputs  # the wavegram joins after the first block
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.fc_audioset = nn.Linear(widths[-1], _TAGS)
        self.blocks = len(widths)
        self._initialise()

    def forward(self, waveforms: Tensor) -> Tensor:
        """Waveforms float32 (N, samples), mono, -1..1, 32 kHz -> embeddings float32 (N, 512 or 2048)."""
        return self.embed(*self.front(waveforms))

    def front(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel spectrograms (N, T, 64) of padded waveforms, and these."""
        waveforms = self.padded(waveforms)
        return self.log_mel(waveforms), waveforms

    def embed(self, spectrograms: Tensor, waveforms: Tensor) -> Tensor:
        """What :meth:`front` gives -> embeddings (N, 512 or 2048)."""
        x = self._first(spectrograms, waveforms)
        for number in range(2, self.blocks + 1):
            x = self.get_submodule(f"conv_block{number}")(x)  # (N, C, T / 2 ** number, 64 / 2 ** number)
        return self._last(x)

    def stages(self) -> list[nn.Module]:
        """See :mod:`soundstack.networks.stages`."""
        blocks = [self.get_submodule(f"conv_block{number}") for number in range(2, self.blocks + 1)]
        return [Step(self._first), *blocks, Step(self._last, self.fc1)]

    def _first(self, spectrograms: Tensor, waveforms: Tensor) -> Tensor:
        x = self.bn0(spectrograms[:, None].transpose(1, 3)).transpose(1, 3)  # (N, 1, T, 64), normalised band by band
        x = self.get_submodule("conv_block1")(x)
        # With a wavegram (N, 128, T / 2, 32).
        return torch.cat([x, self._wavegram(waveforms)], dim=1) if self.wavegram else x

    def _last(self, x: Tensor) -> Tensor:
        x = x.float().mean(dim=3)  # over frequency: (N, C, T')
        x = x.amax(dim=2) + x.mean(dim=2)  # over time: (N, C)
        return F.relu(self.fc1(x)).float()

    def _wavegram(self, waveforms: Tensor) -> Tensor:
        x = F.relu_(self.pre_bn0(self.pre_conv0(waveforms[:, None])))  # (N, 64, samples / 5)
        x = self.pre_block3(self.pre_block2(self.pre_block1(x)))  # (N, 128, samples / 320)
        x = x.unflatten(1, (4, 32)).transpose(2, 3)  # (N, 4, samples / 320, 32): 32 learnt "bands" in 4 channels
        x = self.pre_block4(x)  # (N, 64, samples / 640, 32)
        return x

    def padded(self, waveforms: Tensor) -> Tensor:
        """Zeros at the end until each pool has something to pool and, with a wavegram, its branches agree."""
        samples = waveforms.shape[1]
        pools = min(self.blocks, 5)
        if self.wavegram:
            # A multiple of 640 samples gives both branches samples / 640 frames where they join.
            wanted = max(-(-samples // 640) * 640, 2**pools * _HOP)
        else:
            wanted = max(samples, (2**pools - 1) * _HOP)  # 2 ** pools frames
        return F.pad(waveforms, (0, wanted - samples)) if wanted > samples else waveforms

    def _initialise(self) -> None:
        """The published initialisation: Xavier for weights, zero for biases; batch norm is the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

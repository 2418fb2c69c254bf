"""What the networks of pictures share: normalisation in front, a pool behind (DEEP SPECTRUM, paper section 3.3).

They see pictures of spectrograms, and the activations of one of their top layers are the features. Layers above that
one are dropped once the weights are loaded. torchvision's networks (BSD-3-Clause) have the first version (V1) of their
weights, that of the paper's time. The DEEP SPECTRUM toolkit's Keras networks have other weights and another
normalisation (VGG: BGR without the mean); these are fed as torchvision's weights expect.
"""

from __future__ import annotations

import torch
import torchvision.models
from torch import Tensor, nn

from soundstack.networks.registry import PICTURE_SIZE, Network
from soundstack.networks.stages import Step, flat

_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_DEVIATION = (0.229 * 255, 0.224 * 255, 0.225 * 255)


class PictureNetwork(nn.Module):
    """Normalisation and the layers up to the features.

    Args:
        trunk: normalised pictures float32 (N, 3, size, size) -> features (N, dim).
        mean: of red, green and blue, on 0..255; by default torchvision's.
        deviation: of red, green and blue, on 0..255; by default torchvision's.
        size: width and height of the pictures.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        mean: tuple[float, ...] = _IMAGENET_MEAN,
        deviation: tuple[float, ...] = _IMAGENET_DEVIATION,
        size: int = PICTURE_SIZE,
    ) -> None:
        super().__init__()
        self.size = size
        self.trunk = trunk
        # On the CPU even where the network is laid out on the meta device: no checkpoint brings these.
        self.register_buffer("mean", torch.tensor(mean, device="cpu").view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, device="cpu").view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures uint8 (N, 3, size, size) -> features float32 (N, dim)."""
        return self.embed(*self.front(pictures))

    def front(self, pictures: Tensor) -> tuple[Tensor]:
        """The pictures (N, 3, size, size), looked at."""
        if pictures.dtype != torch.uint8 or pictures.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"Pictures must be uint8 (N, 3, {self.size}, {self.size}), not {pictures.dtype} "
                f"{tuple(pictures.shape)}."
            )
        return (pictures,)

    def embed(self, pictures: Tensor) -> Tensor:
        """What :meth:`forward` does with pictures that it has looked at."""
        features: Tensor = self.trunk(self._normalised(pictures))  # (N, dim)
        return features.float()

    def stages(self) -> list[nn.Module]:
        """See :mod:`soundstack.networks.stages`."""
        return [Step(self._normalised), *flat(self.trunk)]

    def _normalised(self, pictures: Tensor) -> Tensor:
        x = pictures.to(torch.float32, memory_format=torch.channels_last)
        return (x - self.mean) / self.deviation  # (N, 3, size, size)


class GlobalAveragePool(nn.Module):
    """Maps (N, C, H, W) -> (N, C), in float32 even where the convolutions ran in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.float().mean(dim=(2, 3))


class TorchvisionNetwork(Network):
    """A network of torchvision, by its name there."""

    def create(self) -> nn.Module:
        whole: nn.Module = torchvision.models.get_model(self.spec.name, weights=None)
        return whole

"""What ``auto`` means for the CRNN on each data set (paper sections 3.2.1, 3.2.2 and 4.1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CrnnPreset:
    """The CRNN's settings on a data set."""

    layout: str
    epochs: int
    learning_rate: float
    batch_size: int
    clip_db: float


#: DCASE 2018's are the best row of Table 1. For the others the paper gives the learning rate, the epochs and the
#: threshold; the batch of 16 is ours: their training folds hold a few hundred clips, a few batches of 64.
PRESETS: dict[str, CrnnPreset] = {
    "dcase2018": CrnnPreset("three_blocks", 30, 0.01, 64, -60.0),
    "dcase2017": CrnnPreset("four_blocks", 50, 0.001, 64, -80.0),
    "esc50": CrnnPreset("four_blocks", 100, 0.001, 64, -80.0),
    "esc10": CrnnPreset("four_blocks", 100, 0.001, 16, -80.0),
    "demo": CrnnPreset("four_blocks", 40, 0.001, 16, -80.0),
    "csv": CrnnPreset("four_blocks", 100, 0.001, 16, -80.0),
}

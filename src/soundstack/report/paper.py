"""The paper's results as data: Tables 1-3 of Amiriparian et al. 2020, in per cent, as printed.

Rows carry the names of our models without the leading ``<dataset>-``; rows that only cite others' work have names of
their own. DCASE 2018 is scored in macro-F1, the others in accuracy. None is a dash in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

SOURCE = "Amiriparian et al. 2020"
DOI = "https://doi.org/10.1186/s13636-020-00186-0"


class Published(NamedTuple):
    """A row's two figures in per cent."""

    devel: float | None
    test: float | None


#: Learning rate, batch size and amplitude threshold of the CRNN on DCASE 2018; None where no model was tested.
_TABLE_1: Mapping[str, tuple[float, float | None]] = {
    "crnn-lr0.001_b128_30db": (66.5, None),
    "crnn-lr0.001_b128_45db": (57.8, None),
    "crnn-lr0.001_b64_30db": (55.4, None),
    "crnn-lr0.01_b128_30db": (66.2, None),
    "crnn-lr0.01_b128_60db": (69.2, None),
    "crnn-lr0.01_b64_30db": (70.7, 72.3),
    "crnn-lr0.01_b64_45db": (73.7, 79.3),
    "crnn-lr0.01_b64_60db": (78.8, 74.2),
    "fusion-crnn": (81.4, 82.2),
    "baseline": (84.5, 83.1),
}

#: Colour maps of the pictures for an ImageNet pre-trained ResNet50 on DCASE 2018.
_TABLE_2: Mapping[str, tuple[float, float]] = {
    "resnet50-imagenet-cividis": (82.6, 80.2),
    "resnet50-imagenet-gray": (82.2, 79.4),
    "resnet50-imagenet-hot": (82.0, 79.8),
    "resnet50-imagenet": (81.9, 80.3),
    "resnet50-imagenet-viridis": (81.2, 79.9),
}

#: All systems on DCASE 2018, DCASE 2017 and ESC-50; "Proposed CRNN" is on DCASE 2018 the fusion of three (section 4.1).
_TABLE_3: Mapping[str, Sequence[tuple[float, float] | None]] = {
    "densenet121-imagenet": ((82.8, 81.1), (78.9, 64.4), (73.6, 75.0)),
    "densenet121-none": ((77.7, 75.7), (71.2, 59.0), (45.3, 44.0)),
    "resnet50-imagenet": ((81.9, 80.3), (76.5, 55.9), (70.3, 72.0)),
    "resnet50-none": ((70.1, 69.9), (72.7, 61.0), (44.8, 44.8)),
    "vgg16-imagenet": ((79.4, 77.0), (70.1, 54.1), (63.0, 64.8)),
    "vgg16-none": ((73.3, 71.6), (72.2, 57.8), (44.6, 45.3)),
    "vgg19-imagenet": ((78.6, 77.9), (71.8, 57.1), (62.9, 62.5)),
    "vgg19-none": ((74.6, 73.2), (72.0, 61.0), (42.9, 46.0)),
    "openl3_mel256_env_512-audioset": ((73.3, 68.4), (79.3, 67.7), (69.8, 70.8)),
    "panns_wavegram_logmel_cnn14-audioset": ((84.6, 84.6), (69.3, 65.7), (91.0, 89.3)),
    "fusion-crnn": ((81.4, 82.2), None, None),
    "crnn": (None, (68.9, 59.2), (62.3, 68.8)),
    "fusion-imagenet": ((84.4, 84.0), (77.7, 63.5), (70.7, 73.5)),
    "fusion-untrained": ((77.9, 78.1), (74.5, 63.3), (44.9, 46.8)),
    "fusion-deepspectrum": ((84.6, 84.3), (78.7, 67.3), (69.8, 75.8)),
    "fusion-crnn_deepspectrum": ((85.0, 85.5), (80.6, 70.0), (73.5, 78.8)),
    "fusion-deepspectrum_audioset": ((87.0, 87.0), (82.7, 71.2), (90.9, 92.3)),
    "fusion-all": ((86.8, 86.8), (82.5, 71.7), (89.6, 90.8)),
    "baseline": ((84.5, 85.0), (74.8, 61.0), (72.4, 72.4)),
    "cnn_augmentation": ((90.0, 88.4), None, None),
    "gan_augmentation": (None, (87.1, 83.3), None),
    "finetuned_panns": (None, None, (94.7, 94.7)),
}

#: By table, data set and row.
TABLES: Mapping[int, Mapping[str, Mapping[str, Published]]] = {
    1: {"dcase2018": {row: Published(*figures) for row, figures in _TABLE_1.items()}},
    2: {"dcase2018": {row: Published(*figures) for row, figures in _TABLE_2.items()}},
    3: {
        dataset: {row: Published(*pair) for row, figures in _TABLE_3.items() if (pair := figures[place])}
        for place, dataset in enumerate(("dcase2018", "dcase2017", "esc50"))
    },
}

#: The names of all rows.
ROWS = {row for by_data_set in TABLES.values() for rows in by_data_set.values() for row in rows}

#: Clips as published, development and test (paper section 2; for DCASE 2018 some of the challenge's own texts count
#: 72,984 evaluation segments, its table of them 72,972).
CLIPS: Mapping[str, tuple[Sequence[int], Sequence[int]]] = {
    "dcase2018": ([72_984], [72_972, 72_984]),
    "dcase2017": ([4_680], [1_620]),
    "esc50": ([1_600], [400]),
}

#: What a reader of a data set's figures should know.
REMARKS: Mapping[str, str] = {
    "dcase2018": "Paper, baseline: the 85.0 of Table 3 is on known microphones, the 83.1 of Table 1 and the 88.4 of "
    "CNN + data augmentation on unknown ones.",
    "esc50": "Paper, baseline and fine-tuned PANNs: 5-fold cross-validation, another protocol than four folds and a "
    "test set.",
}


def source(table: int) -> str:
    """Name where a table's figures come from."""
    return f"{SOURCE}, Table {table}"

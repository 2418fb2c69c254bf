"""The paper's results as data: Tables 1-3 of Amiriparian et al. 2020, in per cent, as printed.

Rows carry the names of our models without the leading ``<dataset>-``; rows that only cite others' work have names of
their own. DCASE 2018 is scored in macro-F1, the others in accuracy. None is a dash in the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

SOURCE = "Amiriparian et al. 2020"
DOI = "https://doi.org/10.1186/s13636-020-00186-0"


class Published(NamedTuple):
    """A row's two figures in per cent."""

    devel: float | None
    test: float | None


#: Learning rate, batch size and amplitude threshold of the CRNN on DCASE 2018; None where no model was tested.
TABLE_1: Mapping[str, Mapping[str, Published]] = MappingProxyType(
    {
        "dcase2018": {
            "crnn-lr0.001_b128_30db": Published(66.5, None),
            "crnn-lr0.001_b128_45db": Published(57.8, None),
            "crnn-lr0.001_b64_30db": Published(55.4, None),
            "crnn-lr0.01_b128_30db": Published(66.2, None),
            "crnn-lr0.01_b128_60db": Published(69.2, None),
            "crnn-lr0.01_b64_30db": Published(70.7, 72.3),
            "crnn-lr0.01_b64_45db": Published(73.7, 79.3),
            "crnn-lr0.01_b64_60db": Published(78.8, 74.2),
            "fusion-crnn": Published(81.4, 82.2),
            "baseline": Published(84.5, 83.1),
        }
    }
)

#: Colour maps of the pictures for an ImageNet pre-trained ResNet50 on DCASE 2018.
TABLE_2: Mapping[str, Mapping[str, Published]] = MappingProxyType(
    {
        "dcase2018": {
            "resnet50-imagenet-cividis": Published(82.6, 80.2),
            "resnet50-imagenet-gray": Published(82.2, 79.4),
            "resnet50-imagenet-hot": Published(82.0, 79.8),
            "resnet50-imagenet": Published(81.9, 80.3),
            "resnet50-imagenet-viridis": Published(81.2, 79.9),
        }
    }
)

#: All systems on all data sets; "crnn" stands for "Proposed CRNN" (on DCASE 2018 the fusion of three, section 4.1).
TABLE_3: Mapping[str, Mapping[str, Published]] = MappingProxyType(
    {
        "dcase2018": {
            "densenet121-imagenet": Published(82.8, 81.1),
            "densenet121-none": Published(77.7, 75.7),
            "resnet50-imagenet": Published(81.9, 80.3),
            "resnet50-none": Published(70.1, 69.9),
            "vgg16-imagenet": Published(79.4, 77.0),
            "vgg16-none": Published(73.3, 71.6),
            "vgg19-imagenet": Published(78.6, 77.9),
            "vgg19-none": Published(74.6, 73.2),
            "openl3_mel256_env_512-audioset": Published(73.3, 68.4),
            "panns_wavegram_logmel_cnn14-audioset": Published(84.6, 84.6),
            "crnn": Published(81.4, 82.2),
            "fusion-imagenet": Published(84.4, 84.0),
            "fusion-untrained": Published(77.9, 78.1),
            "fusion-deepspectrum": Published(84.6, 84.3),
            "fusion-crnn_deepspectrum": Published(85.0, 85.5),
            "fusion-deepspectrum_audioset": Published(87.0, 87.0),
            "fusion-all": Published(86.8, 86.8),
            "baseline": Published(84.5, 85.0),
            "cnn_augmentation": Published(90.0, 88.4),
        },
        "dcase2017": {
            "densenet121-imagenet": Published(78.9, 64.4),
            "densenet121-none": Published(71.2, 59.0),
            "resnet50-imagenet": Published(76.5, 55.9),
            "resnet50-none": Published(72.7, 61.0),
            "vgg16-imagenet": Published(70.1, 54.1),
            "vgg16-none": Published(72.2, 57.8),
            "vgg19-imagenet": Published(71.8, 57.1),
            "vgg19-none": Published(72.0, 61.0),
            "openl3_mel256_env_512-audioset": Published(79.3, 67.7),
            "panns_wavegram_logmel_cnn14-audioset": Published(69.3, 65.7),
            "crnn": Published(68.9, 59.2),
            "fusion-imagenet": Published(77.7, 63.5),
            "fusion-untrained": Published(74.5, 63.3),
            "fusion-deepspectrum": Published(78.7, 67.3),
            "fusion-crnn_deepspectrum": Published(80.6, 70.0),
            "fusion-deepspectrum_audioset": Published(82.7, 71.2),
            "fusion-all": Published(82.5, 71.7),
            "baseline": Published(74.8, 61.0),
            "gan_augmentation": Published(87.1, 83.3),
        },
        "esc50": {
            "densenet121-imagenet": Published(73.6, 75.0),
            "densenet121-none": Published(45.3, 44.0),
            "resnet50-imagenet": Published(70.3, 72.0),
            "resnet50-none": Published(44.8, 44.8),
            "vgg16-imagenet": Published(63.0, 64.8),
            "vgg16-none": Published(44.6, 45.3),
            "vgg19-imagenet": Published(62.9, 62.5),
            "vgg19-none": Published(42.9, 46.0),
            "openl3_mel256_env_512-audioset": Published(69.8, 70.8),
            "panns_wavegram_logmel_cnn14-audioset": Published(91.0, 89.3),
            "crnn": Published(62.3, 68.8),
            "fusion-imagenet": Published(70.7, 73.5),
            "fusion-untrained": Published(44.9, 46.8),
            "fusion-deepspectrum": Published(69.8, 75.8),
            "fusion-crnn_deepspectrum": Published(73.5, 78.8),
            "fusion-deepspectrum_audioset": Published(90.9, 92.3),
            "fusion-all": Published(89.6, 90.8),
            "baseline": Published(72.4, 72.4),
            "finetuned_panns": Published(94.7, 94.7),
        },
    }
)

TABLES: Mapping[int, Mapping[str, Mapping[str, Published]]] = MappingProxyType({1: TABLE_1, 2: TABLE_2, 3: TABLE_3})

#: Clips as published, development and test (paper section 2; for DCASE 2018 some of the challenge's own texts count
#: 72,984 evaluation segments, its table of them 72,972).
CLIPS: Mapping[str, tuple[frozenset[int], frozenset[int]]] = MappingProxyType(
    {
        "dcase2018": (frozenset({72_984}), frozenset({72_972, 72_984})),
        "dcase2017": (frozenset({4_680}), frozenset({1_620})),
        "esc50": (frozenset({1_600}), frozenset({400})),
    }
)

#: What a reader of a data set's figures should know.
REMARKS: Mapping[str, str] = MappingProxyType(
    {
        "dcase2018": "Paper, baseline: the 85.0 of Table 3 is on known microphones, the 83.1 of Table 1 and the 88.4 "
        "of CNN + data augmentation on unknown ones.",
        "esc50": "Paper, baseline and fine-tuned PANNs: 5-fold cross-validation, another protocol than four folds and "
        "a test set.",
    }
)


def source(table: int) -> str:
    """Name where a table's figures come from.

    >>> source(3)
    'Amiriparian et al. 2020, Table 3'
    """
    return f"{SOURCE}, Table {table}"


def published(table: int, dataset: str, row: str) -> Published | None:
    """Look up a row of a table; None where the paper has none."""
    return TABLES[table].get(dataset, {}).get(row)

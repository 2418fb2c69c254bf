"""What a user may set of fine-tuning."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from soundstack.config.base import (
    Augment,
    Auto,
    ClassWeight,
    Epochs,
    ParallelTrials,
    ServedLimits,
    Studies,
    Suffix,
    Switch,
    run_name,
)
from soundstack.config.network import FINETUNE, NetworkConfig, checked_trainable
from soundstack.networks.registry import slug


class FinetuneConfig(NetworkConfig):
    """Train the top layers of a pre-trained network further, with a new head, on augmented clips (the future work of
    paper section 5), score it on devel and test, and register it.

    Example: mlflow run . -e finetune -P dataset=esc10 -P data_dir=path/to/ESC-50 -P trials=20
    """

    irrelevant: ClassVar[frozenset[str]] = NetworkConfig.irrelevant | {"suffix", "studies"}
    made_by: ClassVar[str] = "finetune.search"

    _trainable = field_validator("network")(checked_trainable)

    depth: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    """share of the network's layers, from the top, that is trained; what lies below is computed once. 0: the new head
    alone. auto: half, of random weights all"""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 3e-4
    """AdamW's rate of the highest layer (the new head's is five times that); after a warm-up it falls as a cosine"""
    rate_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """each layer's rate is so many times that of the layer above"""
    epochs: Epochs = 10
    """passes over the training folds"""
    batch_size: Annotated[int, Field(ge=2, le=4096)] = 16
    """clips a batch"""
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.05
    """AdamW's"""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """share of a target that all classes get alike"""
    ensemble: Annotated[int, Field(ge=1, le=100)] = 3
    """networks trained for each fold, whose probabilities are averaged: on few clips, one differs much from the next"""
    augment: Augment = 1.0
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.3
    """parameter of the beta distribution by which two clips of a batch are mixed; 0: none are"""
    views: Annotated[int, Field(ge=1, le=1000)] = 12
    """augmented copies of each clip that are made ahead, of which an epoch takes one; of thousands of clips fewer do"""
    patience: Annotated[int, Field(ge=0, le=10_000)] = 0
    """0: train all epochs; more: keep a fifth of the training clips back, by group, and stop after so many epochs
    without a lower loss on them, with the best epoch's weights"""
    gradient_checkpoints: Switch = False
    """yes: compute activations twice instead of keeping them, where memory is short"""
    class_weight: ClassWeight = "none"
    trials: Annotated[int, Field(ge=1, le=1000)] = 1
    """1: train once; more: Optuna tunes learning rate, depth and strength of augmentation, one run a trial"""
    parallel_trials: ParallelTrials = 1
    studies: Studies = "auto"
    served_limits: ServedLimits = "default"
    suffix: Suffix = "none"
    """registered as <dataset>-finetune-<network>-<pretraining>-<suffix>"""

    @property
    def model_name(self) -> str:
        """Name of the run and of the registered model."""
        system = f"{FINETUNE}{slug(self.network)}"
        return run_name(self.data_name, system, self.chosen_pretraining, suffix=self.suffix)

    @property
    def chosen_depth(self) -> float:
        """The depth with ``auto`` resolved."""
        if self.depth == "auto":
            return 1.0 if self.chosen_pretraining == "none" else 0.5
        return self.depth

    @property
    def is_random(self) -> bool:
        """Whether another seed may give another result: always, by its batches and its augmentation."""
        return True

"""Suites: which systems are trained on a data set, and which of them are fused, as one readable YAML file each.

``quick``, ``best``, ``table1``, ``table2``, ``table3``, ``full`` and ``offline_best`` stand beside this module; an own
file has the same form::

    description: What it is for.
    rows:                                  # one model each: the entry point and its parameters
      - crnn: {}
      - deepspectrum: {network: densenet121, pretraining: none}
        except: [dcase2018]                # or  only: [esc10, esc50]
      - finetune: {network: efficientnet_lite0, epochs: 20}
    fusions:                               # stacks of this suite's rows
      - suffix: none                       # registered as <dataset>-fusion[-suffix]
        members: "crnn, *-imagenet"        # names or glob patterns, without the leading <dataset>-; of open
                                           # networks as in hf:ORG/NAME-pretrained
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from soundstack.config.network import FINETUNE
from soundstack.networks.registry import slug
from soundstack.utils.errors import ConfigError

#: The entry points that a row may name.
STEPS = ("crnn", "deepspectrum", "finetune")
NAMES = ("quick", "best", "table1", "table2", "table3", "full", "offline_best")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    only: tuple[str, ...] = ()
    but: tuple[str, ...] = Field((), alias="except")

    def applies(self, dataset: str) -> bool:
        """Tell whether this part belongs to the suite on a data set."""
        return (not self.only or dataset in self.only) and dataset not in self.but


class Row(_Part):
    """One model: the parameters of ``crnn``, ``deepspectrum`` or ``finetune``."""

    crnn: dict[str, Any] | None = None
    deepspectrum: dict[str, Any] | None = None
    finetune: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_step(self) -> Self:
        if sum(getattr(self, step) is not None for step in STEPS) != 1:
            raise ValueError("a row names one of " + ", ".join(STEPS))
        return self

    @property
    def step(self) -> str:
        """The entry point."""
        return next(step for step in STEPS if getattr(self, step) is not None)

    @property
    def parameters(self) -> dict[str, Any]:
        """The entry point's parameters."""
        given: dict[str, Any] = getattr(self, self.step)
        return given


class Fusion(_Part):
    """One stack of the suite's rows."""

    members: str
    suffix: str = "none"
    parameters: dict[str, Any] = {}

    def pick(self, dataset: str, names: Sequence[str]) -> list[str]:
        """Return those of the model names that a pattern fits, in order."""
        patterns = [slug(part.strip()) for part in self.members.split(",") if part.strip()]
        short = {name: name.removeprefix(f"{dataset}-") for name in names}
        return [name for name in names if any(fnmatch.fnmatchcase(short[name], pattern) for pattern in patterns)]


class Suite(_Part):
    """Rows and fusions, in the order in which they run."""

    description: str = ""
    rows: tuple[Row, ...] = Field(min_length=1)
    fusions: tuple[Fusion, ...] = ()


def load(name: str) -> Suite:
    """Load a suite by its name, or from a user's YAML file.

    Raises:
        ConfigError: There is no such suite or file, or the file is not a suite; the message says where.
    """
    if name in NAMES:
        text = resources.files("soundstack.suites").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    else:
        path = Path(name).expanduser()
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise ConfigError(f"suite: {name!r} is not known; allowed: {', '.join(NAMES)}, or the path of a YAML file")
        text = path.read_text(encoding="utf-8")
    try:
        return Suite.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"suite: {name} is not readable YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"suite: {name}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def of_systems(systems: Sequence[str]) -> Suite:
    """The suite of listed systems (:data:`soundstack.config.network.Systems`), and the fusion of them all."""
    rows = tuple(Row(**{step: parameters}) for step, parameters in map(system_step, systems))
    return Suite(rows=rows, fusions=(Fusion(members="*"),) if len(rows) > 1 else ())


def system_step(system: str) -> tuple[str, dict[str, Any]]:
    """The entry point that trains a listed system, and its parameters."""
    if system == "crnn":
        return "crnn", {}
    network, _, pretraining = system.removeprefix(FINETUNE).rpartition("-")
    step = "finetune" if system.startswith(FINETUNE) else "deepspectrum"
    return step, {"network": network, "pretraining": pretraining}

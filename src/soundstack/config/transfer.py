"""What a user may set of a transfer between two domains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from soundstack.config import naming
from soundstack.config.base import AnywhereOrAuto
from soundstack.config.network import NetworkConfig

if TYPE_CHECKING:
    Target = str
else:
    Target = Literal["rerecorded", "same", *naming.data_set_modules()]


def _condition(value: str) -> str:
    name, _, wanted = value.partition("=")
    if value != "all" and not (name.strip() and wanted.strip()):
        raise ValueError(f"{value!r} is no condition; give NAME=VALUE, as in node=1, or all")
    return value


#: Clips by what the data set or a column of the user's table says of them.
Where = Annotated[str, AfterValidator(_condition)]


class TransferConfig(NetworkConfig):
    """Learn from a labelled source what is scored on an unlabelled target of other rooms or microphones (DANN).

    Beside DANN stand baselines, training on the source alone, and, as a bound, training on the target's labels.
    Examples: mlflow run . -e transfer -P dataset=esc10 -P data_dir=path/to/ESC-50
              mlflow run . -e transfer -P dataset=csv -P data_dir=studio -P target=csv -P target_dir=garden
    """

    irrelevant: ClassVar[frozenset[str]] = NetworkConfig.irrelevant | {"target_dir"}

    target: Target = "rerecorded"
    """where the unlabelled domain is from: rerecorded: half of the development part and all of the test part, by
    simulation in another room with another microphone; same: the same data set, see source_where; or another data
    set, whose classes of the same names count"""
    target_dir: AnywhereOrAuto = "auto"
    """folder or table of the target's data set, as data_dir"""
    source_where: Where = "all"
    """clips of the source alone of which a tag or column has a value, as in node=1; all: every clip"""
    target_where: Where = "all"
    """the same for the target, as in known=no for the unknown nodes of dcase2018"""
    strength: Annotated[float, Field(ge=0.1, le=2)] = 1.0
    """how far a re-recording is from the original: 0.5 is mild, 1 strong"""
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """repetitions, counted up from seed: of DANN's training, and of the re-recording's halves, room and microphone"""
    adversary: Annotated[float, Field(gt=0, le=10)] = 1.0
    """final weight of DANN's reversed gradient"""
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    """training steps of DANN"""

    @property
    def run_title(self) -> str:
        """Name of the run."""
        return f"{self.data_name}-transfer-{self.of_target.data_name if self.is_other_set else self.target}"

    @property
    def is_other_set(self) -> bool:
        """Whether the target is a data set of its own."""
        return self.target not in ("rerecorded", "same")

    @property
    def of_source(self) -> NetworkConfig:
        """What opens the source."""
        return NetworkConfig.model_construct(**{name: getattr(self, name) for name in NetworkConfig.model_fields})

    @property
    def of_target(self) -> NetworkConfig:
        """What opens the target where it is a data set of its own."""
        return self.of_source.model_copy(update={"dataset": self.target, "data_dir": self.target_dir, "name": "auto"})

    def of_rerecorded(self, table: Path) -> NetworkConfig:
        """What opens the clips that were re-recorded here, a table of one's own that no other host sees."""
        given = {"dataset": "csv", "data_dir": str(table), "name": "rerecorded", "none_rate": "off", "cluster": "none"}
        return self.of_source.model_copy(update=given)

    @model_validator(mode="after")
    def _target_is_there(self) -> Self:
        if not self.is_other_set and self.target_dir != "auto":
            raise ValueError(f"target_dir: target={self.target} has no data of its own; leave target_dir out")
        if self.target == "same" and self.target_where == "all":
            raise ValueError("target_where: target=same needs to know which clips, as in target_where=node=5")
        if self.target == "rerecorded" and self.target_where != "all":
            raise ValueError("target_where: re-recorded clips are drawn by seed; leave target_where out")
        if self.is_other_set:
            try:
                NetworkConfig.model_validate(self.of_target.model_dump())
            except ValidationError as error:
                told = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(told.replace("data_dir", "target_dir").replace("dataset=", "target=")) from None
        return self

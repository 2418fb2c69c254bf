"""The parameters of the ``soak`` entry point."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from soundstack.config.steps import Config, Place

Duration = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class SoakConfig(Config):
    """Try to break the project: kill it, starve it, send it nonsense, load it; report what held and what did not.

    Everything is bounded in count and time and stays on this machine; your tracking store and cache are not
    touched but for the run `soak` itself.
    Example: mlflow run . -e soak -P what=requests -P requests=500
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset({"output_dir"})

    what: Literal["all", "kills", "requests", "load", "fuzz", "faults"] = Field(
        "all", description="all, or one part: kills of main, hostile requests, load, fuzzing, faults of disk and server"
    )
    kills: int = Field(200, ge=1, le=10_000, description="kills of main at random times, each followed by a restart")
    requests: int = Field(10_000, ge=50, le=1_000_000, description="requests to the scoring server, most of them bad")
    load_seconds: Duration = Field(10.0, description="how long each number of clients loads the scoring server")
    fuzz_seconds: Duration = Field(20.0, description="how long each of the fuzzed functions is given examples")
    model: str = Field(
        "tiny", description="registered model to load, NAME or NAME/VERSION or NAME@ALIAS; tiny: one trained here"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="fixes the times of kills, the requests and the examples")
    output_dir: Place = Field("soak", description="folder that the results are copied to")

    def wants(self, part: str) -> bool:
        """Tell whether a part is to be run."""
        return self.what in ("all", part)

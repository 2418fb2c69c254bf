"""The parameters of the ``soak`` entry point."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from soundstack.config.base import Config, Place, Seed

Duration = Annotated[float, Field(gt=0, le=3600)]


class SoakConfig(Config):
    """Try to break the project: kill it, starve it, send it nonsense, load it; report what held and what did not.

    Everything is bounded in count and time and stays on this machine; your tracking store and cache are not
    touched but for the run `soak` itself.
    Example: mlflow run . -e soak -P what=requests -P requests=500
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset({"output_dir"})

    what: Literal["all", "kills", "requests", "load", "fuzz", "faults"] = "all"
    """all, or one part: kills of main, hostile requests, load, fuzzing, faults of disk and server"""
    kills: Annotated[int, Field(ge=1, le=10_000)] = 200
    """kills of main at random times, each followed by a restart"""
    requests: Annotated[int, Field(ge=50, le=1_000_000)] = 10_000
    """requests to the scoring server, most of them bad"""
    load_seconds: Duration = 10.0
    """how long each number of clients loads the scoring server"""
    fuzz_seconds: Duration = 20.0
    """how long each of the fuzzed functions is given examples"""
    model: str = "tiny"
    """registered model to load, NAME or NAME/VERSION or NAME@ALIAS; tiny: one trained here"""
    seed: Seed = Field(0, description="fixes the times of kills, the requests and the examples")
    output_dir: Place = "soak"
    """folder that the results are copied to"""

    def wants(self, part: str) -> bool:
        """Tell whether a part is to be run."""
        return self.what in ("all", part)

"""The parameters of the ``report`` entry point."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from soundstack.config import naming
from soundstack.config.base import Config, Place, Seed


class ReportConfig(Config):
    """Report tracked runs as Tables 1-3 of the paper, with intervals, confusions and paired tests.

    Nothing is trained: scores and predictions come from the tracking store.
    Example: mlflow run . -e report -P datasets=esc10
    """

    irrelevant: ClassVar[frozenset[str]] = frozenset({"output_dir"})

    datasets: str = "all"
    """comma-separated data sets, own ones by name; all: every one with runs"""
    rows: str = "auto"
    """comma-separated names of models, with or without the leading '<dataset>-', for per-class F1 and paired tests;
    auto: best single system, CRNN and best fusion, as judged on devel"""
    output_dir: Place = "reports"
    """folder that the files are copied to"""
    swaps: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    """random swaps of the paired tests"""
    seed: Seed = Field(0, description="fixes the random swaps")

    @field_validator("datasets")
    @classmethod
    def _datasets_known(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names:
            raise ValueError(f"name at least one data set, {', '.join(naming.PUBLISHED)} or your own, or all")
        for name in names:
            if name not in naming.PUBLISHED:
                naming.checked(name)
        return "all" if "all" in names else ",".join(dict.fromkeys(names))

    @field_validator("rows")
    @classmethod
    def _rows_named(cls, value: str) -> str:
        names = [name.strip() for name in value.split(",") if name.strip()]
        if not names:
            raise ValueError("name at least one model, e.g. crnn,fusion, or auto")
        if "auto" in names and len(names) > 1:
            raise ValueError("auto stands alone; name the models, or leave rows out")
        return ",".join(dict.fromkeys(names))

"""What the entry points that read a data set have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from soundstack.datasets.corpus import open_corpus
from soundstack.tracking import ownership
from soundstack.utils.progress import bar

if TYPE_CHECKING:
    from soundstack.config.base import DataConfig
    from soundstack.datasets.corpus import Corpus
    from soundstack.deepspectrum.system import Features
    from soundstack.features.extract import Extraction
    from soundstack.spectrograms.extract import Spectrograms
    from soundstack.tracking.run import Run

F = TypeVar("F", "Features", "Spectrograms")


def scan_and_extract(
    opened: Run,
    config: DataConfig,
    begun: Extraction,
    what: str,
    finish: Callable[[Corpus, Callable[[int], object]], F],
) -> tuple[Corpus, F]:
    """Scan a data set while its features are begun, log it, and finish the features: ``finish(corpus, advance)``.

    Raises:
        ConfigError: The data set's name is another table's; nothing was trained yet.
    """
    with opened.stage("scan"):
        corpus = open_corpus(config, begun)
    ownership.require(corpus.tags)
    opened.corpus(corpus)
    with opened.stage("extract"), bar(what, len(corpus.clips), "clips") as advance:
        features = finish(corpus, advance)
    opened.parts |= {"scan": begun.report.seconds, "extract": features.report.seconds}
    return corpus, features

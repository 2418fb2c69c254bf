"""What the entry points that read a data set have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from soundstack.datasets.open_corpus import open_corpus
from soundstack.tracking import ownership
from soundstack.utils.progress import bar

if TYPE_CHECKING:
    from soundstack.config.base import DataConfig
    from soundstack.datasets.corpus import Corpus
    from soundstack.features.extract import Extracted, Extraction
    from soundstack.tracking.run import Run


def scan_and_extract(opened: Run, config: DataConfig, begun: Extraction, what: str) -> tuple[Corpus, Extracted]:
    """Scan a data set while its features are begun, log it, and finish the features, with a progress bar called so.

    Raises:
        ConfigError: The data set's name is another table's; nothing was trained yet.
    """
    with opened.stage("scan"):
        corpus = open_corpus(config, begun)
    ownership.require(corpus.tags)
    corpus.log(opened)
    with opened.stage("extract"), bar(what, len(corpus.clips), "clips") as advance:
        features = begun.finish(corpus, advance)
    opened.parts |= {"scan": begun.report.seconds, "extract": features.report.seconds}
    return corpus, features

"""What the entry points that read a data set have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from soundstack.datasets.open_data_set import open_data_set
from soundstack.suites import summary
from soundstack.tracking import registered_models
from soundstack.utils.progress import bar

if TYPE_CHECKING:
    from soundstack.config.base import DataConfig
    from soundstack.config.steps import ModelConfig
    from soundstack.datasets.data_set import DataSet
    from soundstack.evaluation.evaluation import Evaluation, RegisteredModel
    from soundstack.features.extract import Extracted, Extraction
    from soundstack.recognisers.base import Recogniser
    from soundstack.tracking.run import Run
    from soundstack.training.fold import FoldModel


class Trained(Protocol):
    """What training gives."""

    @property
    def recogniser(self) -> Recogniser: ...

    @property
    def evaluation(self) -> Evaluation: ...


def tell_processors(opened: Run, names: Iterable[str], did: str) -> None:
    """Tag a run with the processors of other hosts that took part, and say so where there were several."""
    if processors := sorted(names):
        opened.tags({"soundstack.processors": "; ".join(processors)})
    if len(processors) > 1:
        print(f"Note: processors round differently, and {' and '.join(processors)} {did}.")


def scan_and_extract(opened: Run, config: DataConfig, begun: Extraction, what: str) -> tuple[DataSet, Extracted]:
    """Scan a data set while its features are begun, log it, and finish the features, with a progress bar called so.

    Raises:
        ConfigError: The data set's name is another table's; nothing was trained yet.
    """
    with opened.stage("scan"):
        data_set = open_data_set(config, begun)
    registered_models.require_name(data_set.tags)
    # A step that trains nothing has no such parameter.
    unequal = summary.unequal_classes(data_set.devel_counts(), getattr(config, "class_weight", ""))
    summary.say(unequal)
    data_set.log(opened, *filter(None, [unequal]))
    with opened.stage("extract"), bar(what, len(data_set.clips), "clips") as advance:
        features = begun.finish(data_set, advance)
    tell_processors(opened, features.report.processors, "made features of one set")
    opened.parts |= {"scan": begun.report.seconds, "extract": features.report.seconds}
    return data_set, features


def register(opened: Run, config: ModelConfig, data_set: DataSet, trained: Trained, family: str) -> RegisteredModel:
    """Log how a model that was trained on a data set was judged, and register it."""
    from soundstack.audio.limits import RequestLimits
    from soundstack.tracking import registry

    opened.evaluation(trained.evaluation)
    tags, limits = data_set.tags | {"family": family}, RequestLimits.parse(config.served_limits)
    return registry.register(opened, config, trained.recogniser, trained.evaluation, tags, limits)


def log_folds(opened: Run, folds: Mapping[str, FoldModel]) -> None:
    """Log the learning curves of cross-validated networks."""
    from soundstack.evaluation import plots
    from soundstack.training.cross_validation import curves
    from soundstack.utils.files import save_figure

    opened.metrics({"folds_reused": sum(fold.reused for fold in folds.values())})
    for step, values in curves(folds):
        opened.metrics(values, step)
    figure = plots.learning_curves_figure([fold.history for fold in folds.values()])
    save_figure(figure, opened.folder / "curves" / "learning_curves.png")

"""Stack registered models of one data set with a linear SVM, and register the fusion (paper section 3.4)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.steps import FuseConfig

if TYPE_CHECKING:
    from soundstack.evaluation.evaluation import RegisteredModel


def run(config: FuseConfig) -> RegisteredModel:
    """Fetch the members' predictions, stack them, evaluate and register as one MLflow run."""
    from soundstack.audio.limits import RequestLimits
    from soundstack.evaluation import plots
    from soundstack.fusion import system as stacking
    from soundstack.recognisers import base as recognisers
    from soundstack.suites import summary
    from soundstack.tracking import registered_models, registry
    from soundstack.tracking import run as tracking
    from soundstack.utils.files import save_figure, write_json

    if config.data_name == "auto":
        registered_models.refuse_nameless()
    with tracking.run(config.model_name, config) as opened:
        with opened.stage("fetch"):
            found = registered_models.find_members(config.data_name, config.members)
            members = stacking.fetch(found, nested=config.nested, none=config.none_rate != "off")
            registered_models.require_name(found[0].data_tags)
        summary.say(summary.unequal_classes(Counter(members.members[0].devel.labels), config.class_weight))
        with opened.stage("fit"):
            trained = stacking.train(members, config)
        versions = [f"{member.name}/{member.version}" for member in found]
        opened.settings(config, {"members": ",".join(versions), "C": trained.search.chosen})
        first = members.members[0]
        counts = {"clips_devel": len(first.devel.clips), "clips_test": len(first.test.clips)}
        opened.dataset(config.data_name, found[0].data_fingerprint, counts)
        with opened.stage("track"):
            trained.search.log(opened)
            opened.metrics({f"weight_share/{name}": share for name, share in trained.shares.items()})
            opened.metrics({f"devel_macro_f1_without/{name}": score for name, score in trained.without.items()})
            shares = {"weight_share": trained.shares, "devel_macro_f1_without": trained.without}
            write_json(opened.folder / "contributions.json", {"members": versions} | shares)
            figure = plots.contributions_figure(
                list(trained.shares), list(trained.shares.values()), list(trained.without.values()), trained.devel_f1
            )
            save_figure(figure, opened.folder / "contributions.png")
            (opened.folder / "data").mkdir()
            (opened.folder / "data" / "clips.csv").write_text(members.manifest, encoding="utf-8")
            (opened.folder / "data" / "data.json").write_bytes(found[0].artifact("data/data.json").read_bytes())
            opened.evaluation(trained.evaluation)
            tags = found[0].data_tags | {"family": "fusion", "members": ",".join(versions)}
            own_models = {member.name: recognisers.load(member.folder) for member in found}
            recogniser = stacking.recogniser(trained, own_models, config)
            limits = RequestLimits.parse(config.served_limits)
            registered = registry.register(opened, config, recogniser, trained.evaluation, tags, limits)
    return summary.after_model(registered)


if __name__ == "__main__":
    cli.run(FuseConfig, run)

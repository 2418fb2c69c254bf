"""Stack registered models of one data set with a linear SVM, and register the fusion (paper section 3.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import _project  # noqa: F401  (first: makes src importable)
from soundstack.config import cli
from soundstack.config.steps import FuseConfig

if TYPE_CHECKING:
    from soundstack.evaluation.evaluation import Trained


def run(config: FuseConfig) -> Trained:
    """Fetch the members' predictions, stack them, evaluate and register as one MLflow run."""
    from soundstack.evaluation import plots
    from soundstack.fusion import system as stacking
    from soundstack.suites import summary
    from soundstack.tracking import ownership, registry
    from soundstack.tracking import run as tracking
    from soundstack.utils.files import save_figure, write_json

    if config.data_name == "auto":
        ownership.refuse_nameless()
    with tracking.run(config.model_name, config) as opened:
        with opened.stage("fetch"):
            found = registry.find_members(config.data_name, config.members)
            members = stacking.fetch(found, nested=config.nested == "yes")
            ownership.require(found[0].data_tags)
        with opened.stage("fit"):
            trained = stacking.train(members, config)
        versions = [f"{member.name}/{member.version}" for member in found]
        opened.settings(config, {"members": ",".join(versions), "C": trained.search.chosen})
        first = members.members[0]
        counts = {"clips_devel": len(first.devel.clips), "clips_test": len(first.test.clips)}
        opened.dataset(config.data_name, found[0].data_fingerprint, counts)
        with opened.stage("track"):
            opened.cost_search(trained.search)
            opened.metrics({f"weight_share/{name}": share for name, share in trained.shares.items()})
            opened.metrics({f"devel_macro_f1_without/{name}": score for name, score in trained.without.items()})
            write_json(
                opened.folder / "contributions.json",
                {
                    "members": versions,
                    "weight_share": trained.shares,
                    "devel_macro_f1_without": trained.without,
                },
            )
            figure = plots.contributions_figure(
                list(trained.shares),
                list(trained.shares.values()),
                list(trained.without.values()),
                trained.devel_f1,
            )
            save_figure(figure, opened.folder / "contributions.png")
            (opened.folder / "data").mkdir()
            (opened.folder / "data" / "clips.csv").write_text(trained.manifest, encoding="utf-8")
            (opened.folder / "data" / "data.json").write_bytes(found[0].artifact("data/data.json").read_bytes())
            opened.evaluation(trained.evaluation)
            registered = registry.register(
                opened,
                config,
                stacking.recogniser(trained, found),
                trained.evaluation,
                found[0].data_tags | {"family": "fusion", "members": ",".join(versions)},
                config.limits,
            )
    return summary.after_model(registered)


if __name__ == "__main__":
    cli.run(FuseConfig, run)

"""What a person reads when a step ends: the scores, where to look, and the next command to type."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from soundstack.evaluation.tables import SystemScores, summary_table

if TYPE_CHECKING:
    from soundstack.datasets.corpus import Corpus
    from soundstack.results import Evaluation
    from soundstack.systems.spectrograms import Spectrograms
    from soundstack.tracking import Registered, Run

UI = 'mlflow ui --no-serve-artifacts --default-artifact-root "$PWD/mlruns" --workers 1'


@dataclass(frozen=True)
class Trained:
    """A registered system and its row in the table."""

    name: str
    version: str
    champion: bool
    scores: SystemScores


def after_extract(corpus: Corpus, made: Spectrograms) -> None:
    """Say what was extracted."""
    dataset = corpus.dataset
    print(
        f"\n{dataset.name}: {len(dataset.devel)} development clips in {len(dataset.folds)} folds, "
        f"{len(dataset.test)} test clips, {len(dataset.labels)} classes; {corpus.audio.seconds:g} s at "
        f"{corpus.audio.sample_rate} Hz.\nLog-mel: {made.report.made} made, {made.report.reused} taken from the "
        f"cache, each {made.values.shape[1]} frames x {made.values.shape[2]} bands. Data fingerprint "
        f"{corpus.fingerprint}."
    )
    for note in dataset.notes:
        print(f"Note: {note}")
    if corpus.silent:
        print(f"Note: {_several(corpus.silent)} digital silence.")
    for problem in corpus.skipped:
        print(f"Skipped: {problem}")


def after_model(dataset: str, registered: Registered, evaluation: Evaluation) -> Trained:
    """Say how a model scored and where it is."""
    trained = Trained(registered.name, registered.version, registered.champion, evaluation.row(registered.name))
    note = "" if registered.champion else " (an earlier version is better on devel and stays champion)"
    print(f"\n{summary_table([trained.scores])}Registered: models:/{registered.name}/{registered.version}{note}")
    return trained


def log(run: Run, systems: Sequence[Trained]) -> None:
    """Log the table of all systems to the parent run."""
    from soundstack.evaluation import plots
    from soundstack.results import save_figure

    rows = [system.scores for system in systems]
    (run.folder / "summary.md").write_text(summary_table(rows, markdown=True))
    save_figure(plots.summary_figure(rows), run.folder / "summary.png")
    for system in systems:
        for part in ("devel_accuracy", "devel_macro_f1", "test_accuracy", "test_macro_f1"):
            interval = getattr(system.scores, part)
            if interval is not None:
                run.metrics({f"{system.name}/{part}": interval.value})
    best = systems[-1].scores
    run.metrics(
        {
            part: interval.value
            for part in ("devel_accuracy", "devel_macro_f1", "test_accuracy", "test_macro_f1")
            if (interval := getattr(best, part)) is not None
        }
    )


def after_main(dataset: str, systems: Sequence[Trained]) -> None:
    """Show the table of all systems and the next commands."""
    last = systems[-1]
    served = f"models:/{last.name}@champion"
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI", "")
    ui = UI if not elsewhere.startswith("http") else elsewhere
    print(
        f"\n{summary_table([system.scores for system in systems])}\n"
        f"Compare the runs:  {ui}\n"
        f"Serve the model:   mlflow models serve -m {served} --env-manager local -p 5001\n"
        'Ask it:            (printf \'{"dataframe_records":[{"audio":"\'; base64 -w0 CLIP.wav; '
        "printf '\"}]}') | curl -s -H 'Content-Type: application/json' --data-binary @- localhost:5001/invocations"
    )


def _several(clips: Sequence[str]) -> str:
    return f"{clips[0]} is" if len(clips) == 1 else f"{len(clips)} clips ({', '.join(clips[:3])} ...) are"

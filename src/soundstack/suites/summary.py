"""What a person reads when a step ends: the scores, where to look, and the next command to type."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np

from soundstack.config.places import project
from soundstack.evaluation.evaluation import SCORES, RegisteredModel
from soundstack.evaluation.tables import SystemScores, summary_table
from soundstack.utils.progress import duration

if TYPE_CHECKING:
    from soundstack.config.lowdata import LowdataConfig
    from soundstack.datasets.data_set import DataSet
    from soundstack.prediction.tables import Totals
    from soundstack.spectrograms.extract import Spectrograms
    from soundstack.suites.runner import Outcome
    from soundstack.tracking.run import Run

#: The clips of the largest class for one of the smallest, above which it is said that they are unequal.
UNEQUAL = 5
UI = '--no-serve-artifacts --default-artifact-root "$PWD/mlruns" --workers 1'


def unequal_classes(counts: Mapping[str, int], class_weight: str) -> str:
    """What to try where classes of so many development clips are unequal and count by their size; else empty."""
    most, least = (choice(counts, key=lambda label: counts[label]) for choice in (max, min))
    if class_weight != "none" or counts[most] <= UNEQUAL * counts[least]:
        return ""
    return (
        f"Classes are unequal ({most}: {counts[most]:,} development clips, {least}: {counts[least]:,}), and each "
        "counts by its size; class_weight=balanced lets all count alike."
    )


@cache
def say(note: str) -> None:
    """Print a note, if there is one, once a process: the rows of a suite have the same to say."""
    if note:
        print(f"Note: {note}", flush=True)


def after_extract(data_set: DataSet, made: Spectrograms) -> None:
    """Say what was extracted."""
    table = data_set.clip_table
    print(
        f"\n{table.name}: {len(table.devel)} development clips in {len(table.folds)} folds, "
        f"{len(table.test)} test clips, {len(table.labels)} classes; {data_set.audio.seconds:g} s at "
        f"{data_set.audio.sample_rate} Hz.\nLog-mel: {made.report.made} made, {made.report.reused} taken from the "
        f"cache, each {made.values.shape[1]} frames x {made.values.shape[2]} bands. Data fingerprint "
        f"{data_set.fingerprint}."
    )
    for note in table.notes:
        if note != table.understood:  # said already
            print(f"Note: {note}")
    if silent := data_set.silent:
        which = f"{silent[0]} is" if len(silent) == 1 else f"{len(silent)} clips ({', '.join(silent[:3])} ...) are"
        print(f"Note: {which} digital silence.")
    for problem in data_set.skipped:
        print(f"Skipped: {problem}")


def after_model(trained: RegisteredModel) -> RegisteredModel:
    """Say how a model scored and where it is."""
    print(f"\n{summary_table([trained.scores])}Registered: models:/{trained.name}/{trained.version}")
    if trained.restriction:
        print(f"Licence: this model is {trained.restriction}.")
    print(_champion_line(trained), end="")
    return trained


def _champion_line(trained: RegisteredModel) -> str:
    """Which version the alias is at, if it is another one, and the command that moves it."""
    if not trained.note:
        return ""
    _, _, python = _commands_of_the_user()
    call = f"mlflow.MlflowClient().set_registered_model_alias('{trained.name}', 'champion', '{trained.version}')"
    return f'Note: the {trained.note}. To move it: {python} -c "import mlflow; {call}"\n'


def after_prediction(
    totals: Totals, *, model: str, output: str, taken: int, spent: float, scored_seconds: float, next_command: str
) -> None:
    """Say what was recognised, how fast, and where the tables are.

    ``taken`` files were finished by an earlier run; in this one, ``scored_seconds`` of sound took ``spent`` seconds.
    """
    print(f"\n{model}: {totals.files} files, {totals.seconds / 3600:.2f} h of sound, {totals.windows} windows.")
    if taken:
        print(f"{taken} files were done by an earlier run and reused.")
    if scored_seconds:
        times = scored_seconds / spent
        print(f"Scored {duration(scored_seconds)} of sound in {duration(spent)} ({times:.0f} x real time).")
    width = max(map(len, totals.by_label), default=0)
    for label, count in totals.by_label.most_common():
        print(f"  {label:<{width}}  {count:>6}  {100 * count / totals.files:3.0f} %")
    if totals.bad:
        print(f"{totals.bad} bad files were left out; all are listed in {output}/errors.csv:")
        for problem in totals.problems:
            print(f"  {problem}")
    print(f"\nWindows: {output}/predictions.csv (and .parquet)\nFiles:   {output}/files.csv\n{next_command}")


def log(run: Run, outcomes: Sequence[Outcome], note: str = "") -> None:
    """Log the table of all systems, a note on all of them, and the time each took, to the parent run."""
    from soundstack.evaluation import plots
    from soundstack.utils.files import save_figure, write_json

    trained = _of_first_seed(outcomes)
    text = summary_table([each.scores for each in trained], markdown=True) if trained else ""
    text += "".join(f"\n{line}\n" for line in _over_seeds(outcomes).splitlines() if line)
    text += "".join(f"\n{each.name} (seed {each.seed}): {each.note}\n" for each in outcomes if each.note)
    text += f"\n{note}\n" if note else ""
    (run.folder / "summary.md").write_text(text, encoding="utf-8")
    lines = [
        {
            "name": each.name,
            "seed": each.seed,
            "version": each.trained and each.trained.version,
            "seconds": round(each.seconds, 1),
            "note": each.note,
        }
        for each in outcomes
    ]
    write_json(run.folder / "summary.json", lines)
    if trained:
        save_figure(plots.summary_figure([each.scores for each in trained]), run.folder / "summary.png")
    for name, by_score in _by_name(outcomes).items():
        for score, values in by_score.items():
            run.metrics({f"{name}/{score}": values[0]})
            if len(values) > 1:
                mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
                run.metrics({f"{name}/{score}_mean": mean, f"{name}/{score}_sd": deviation})
    if best := _best(outcomes):
        run.metrics({score: getattr(best.scores, score).value for score in SCORES})


def after_main(outcomes: Sequence[Outcome], note: str = "") -> None:
    """Show the table of all systems, a note on them, what was not run and why, and the next commands."""
    if trained := _of_first_seed(outcomes):
        print(f"\n{summary_table([each.scores for each in trained])}", end="")
    print(_over_seeds(outcomes), end="")
    if note:
        print(f"Note: {note}")
    for outcome in outcomes:
        if outcome.trained is None:
            print(f"Not run: {outcome.name}: {outcome.note}")
        elif outcome.note and outcome.note != "reused":
            print(f"Note: {outcome.name}: {outcome.note}")
    for restriction in dict.fromkeys(each.trained.restriction for each in outcomes if each.trained):
        if restriction:
            names = dict.fromkeys(e.name for e in outcomes if e.trained and e.trained.restriction == restriction)
            print(f"Licence: {', '.join(names)}: {restriction}.")
    taken = sum(outcome.note.startswith("reused") for outcome in outcomes)
    absent = sum(outcome.trained is None for outcome in outcomes)
    spent = duration(sum(outcome.seconds for outcome in outcomes))
    not_run = f", {absent} not run" if absent else ""
    print(f"{len(outcomes) - taken - absent} rows run, {taken} reused{not_run}, in {spent}.")
    if (best := _best(outcomes)) is None:
        return
    mlflow, manager, _ = _commands_of_the_user()
    print(_champion_line(best), end="")
    print(
        f"\nCompare the runs:  {_ui(mlflow)}\n"
        f"In the browser:    {mlflow} run {project()} --env-manager {manager} -e page "
        f"-P model={best.name}/{best.version}\n"
        f"Serve the model:   {mlflow} models serve -m models:/{best.name}/{best.version} --env-manager {manager} "
        "-p 5001\n"
        'Ask it:            (printf \'{"dataframe_records":[{"audio":"\'; base64 < CLIP.wav | '
        "tr -d '\\n'; printf '\"}]}') | "
        "curl -s -H 'Content-Type: application/json' --data-binary @- localhost:5001/invocations"
    )


def after_lowdata(config: LowdataConfig, best: Mapping[int, str]) -> None:
    """Say which system was best with how many clips a class, and how the best with the most is trained on all."""
    for name in dict.fromkeys(best.values()):
        sizes = [str(size) for size, of_size in best.items() if of_size == name]
        print(f"Best with {', '.join(sizes)} clips a class: {name}")
    mlflow, manager, _ = _commands_of_the_user()
    given = {name: getattr(config, name) for name in ("dataset", "data_dir", "name")}
    given = {name: value for name, value in given.items() if value != config.defaults()[name] or name == "dataset"}
    words = " ".join(f"-P {name}={shlex.quote(str(value))}" for name, value in given.items())
    chosen = best[max(best)]
    print(f"\nTrain it on all:  {mlflow} run {project()} --env-manager {manager} {words} -P systems={chosen}")


def _ui(mlflow: str) -> str:
    """Where the runs are seen: a server's address, or the command that shows the store."""
    store = os.environ.get("MLFLOW_TRACKING_URI", "")
    if store.startswith("http"):
        return store
    default = unquote(store) in ("", "sqlite:///mlflow.db", f"sqlite:///{Path('mlflow.db').absolute()}")
    return f"{mlflow} ui {'' if default else f'--backend-store-uri {shlex.quote(store)} '}{UI}"


def _commands_of_the_user() -> tuple[str, str, str]:
    """The ``mlflow`` command as the user can type it, the environment manager that goes with it, and a ``python``.

    Where ``mlflow run`` built this environment for itself, the user's shell has none active: there uvx brings MLflow.
    """
    if ".mlflow" in Path(sys.prefix).parts:
        uvx = f"uvx --python 3.11 --from mlflow=={metadata.version('mlflow')}"
        return f"{uvx} mlflow", "uv", f"{uvx} python"
    return "mlflow", "local", "python"


def _of_first_seed(outcomes: Sequence[Outcome]) -> list[RegisteredModel]:
    return [outcome.trained for outcome in outcomes if outcome.trained and outcome.seed == outcomes[0].seed]


def _best(outcomes: Sequence[Outcome]) -> RegisteredModel | None:
    """The suite's main result: its last fusion that ran, else its best row on devel."""
    done = _of_first_seed(outcomes)
    if fusions := [trained for trained in done if "-fusion" in trained.name]:
        return fusions[-1]
    return max(done, key=lambda t: t.scores.devel_macro_f1.value if t.scores.devel_macro_f1 else 0.0, default=None)


def _by_name(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[float]]]:
    """Scores by system and kind, one value a seed."""
    found: dict[str, list[SystemScores]] = {}
    for outcome in outcomes:
        if outcome.trained:
            found.setdefault(outcome.name, []).append(outcome.trained.scores)
    return {
        name: {score: [getattr(each, score).value for each in seeds] for score in SCORES}
        for name, seeds in found.items()
    }


def _over_seeds(outcomes: Sequence[Outcome]) -> str:
    """Mean and deviation over seeds of the systems that were repeated; empty where there was one seed."""
    lines = []
    for name, scores in _by_name(outcomes).items():
        if (count := len(scores[SCORES[0]])) > 1:
            cells = [f"{part} {100 * np.mean(v):.1f} +- {100 * np.std(v, ddof=1):.1f}" for part, v in scores.items()]
            lines.append(f"{name}, {count} seeds: {', '.join(cells)}\n")
    return "\n" + "".join(lines) if lines else ""

"""Run a suite: every row that is not done yet, then the fusions of what is there.

A row is done when the store holds a finished run of the same model name, configuration, data fingerprint and code; it
is then reused. So a killed suite, started again, continues at its first unfinished row; a row that another process
has under way, or another host on the same server, is waited for, and reused too. A row whose weights cannot be had is
reported, and the rest goes on; a fusion uses the members that are there and says which are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from soundstack.config.base import DataConfig
from soundstack.config.cli import explain
from soundstack.config.network import NetworkConfig
from soundstack.config.steps import MODEL_STEPS, MainConfig, ModelConfig
from soundstack.config.suite import Row
from soundstack.evaluation.evaluation import RegisteredModel
from soundstack.networks import weights
from soundstack.networks.registry import network_spec
from soundstack.tracking import reuse
from soundstack.tracking.claims import claimed
from soundstack.utils.errors import ConfigError, MemberError, WeightsError
from soundstack.utils.locks import exclusive

#: The entry points by name: configuration in, registered model out.
Steps = dict[str, Callable[[Any], RegisteredModel]]
#: What the steps of a suite reuse from its own parameters, unless a row says otherwise.
_SHARED: Mapping[str, Sequence[str]] = {
    "crnn": (*DataConfig.model_fields, "epochs", "class_weight", "trials", "parallel_trials", "studies", "nested"),
    "deepspectrum": (*DataConfig.model_fields, "class_weight", "nested", "weights_dir"),
    "finetune": (*DataConfig.model_fields, "class_weight", "weights_dir"),
    "fuse": ("dataset", "cache_dir", "class_weight", "nested", "none_rate", "served_limits"),
}


@dataclass(frozen=True)
class Outcome:
    """What became of one row or fusion with one seed."""

    name: str
    seed: int
    trained: RegisteredModel | None
    seconds: float
    note: str = ""


def run_suite(config: MainConfig, steps: Steps, data_fingerprint: str) -> list[Outcome]:
    """Run the configured suite and return the outcomes in order, seed by seed.

    Raises:
        ConfigError: A row of a user's suite has a parameter that its entry point refuses.
    """
    suite = config.chosen_suite
    rows = [row for row in suite.rows if row.applies(config.dataset)]
    fusions = [fusion for fusion in suite.fusions if fusion.applies(config.dataset)]
    outcomes: list[Outcome] = []
    fixed: dict[str, Outcome] = {}  # what no seed changes is done once
    for seed in range(config.seed, config.seed + config.seeds):
        of_seed: list[Outcome] = []
        for number, row in enumerate(rows, start=1):
            settings = row_settings(row, config, seed, number)
            outcome = fixed.get(settings.model_name)
            if outcome is None:
                outcome = do(settings, seed, steps, data_fingerprint, rerun=config.rerun)
                outcomes.append(outcome)
            if not settings.is_random:
                fixed[outcome.name] = outcome
            of_seed.append(outcome)
        for fusion in fusions:
            wanted = fusion.pick(config.data_name, [outcome.name for outcome in of_seed])
            members = [outcome for outcome in of_seed if outcome.name in wanted]
            versions = [f"{each.name}/{each.trained.version}" for each in members if each.trained]
            own = {
                "name": config.data_name if config.dataset == "csv" else "auto",
                "members": ",".join(versions) or "none",
                "seed": seed,
                "suffix": fusion.suffix,
            }
            settings = _settings("fuse", config, own | fusion.parameters, f"fusion {fusion.suffix}")
            if settings.model_name in fixed:
                continue
            outcome = _fuse(settings, seed, members, steps, data_fingerprint, rerun=config.rerun)
            outcomes.append(outcome)
            if not settings.is_random and all(member.name in fixed for member in members):
                fixed[outcome.name] = outcome
    return outcomes


def do(settings: ModelConfig, seed: int, steps: Steps, data_fingerprint: str, *, rerun: bool) -> Outcome:
    """Train what a row or a fusion says, unless it is done already or something that it needs cannot be had."""
    started = time.perf_counter()
    name, note = settings.model_name, ""
    key = reuse.row_key(settings, data_fingerprint)
    with ExitStack() as held:
        held.enter_context(exclusive(settings.cache_path / "rows" / f"{key}.lock", name))
        trained = None if rerun else reuse.find_done(settings, data_fingerprint)
        if trained is None and held.enter_context(claimed(key, name)) and not rerun:
            trained = reuse.find_done(settings, data_fingerprint)
        if trained is not None:
            note = "reused"
            print(f"{name}: done already, reused (models:/{trained.name}/{trained.version}).")
        else:
            try:
                if isinstance(settings, NetworkConfig) and settings.chosen_pretraining != "none":
                    # Before a run is opened: without weights there is nothing to track.
                    network = network_spec(settings.network, settings.chosen_pretraining)
                    weights.find_or_fetch(network, settings.weights_folder)
                trained = steps[settings.step()](settings)
            except (WeightsError, MemberError) as error:
                note = str(error)
                print(f"{name}: not run. {note}")
    return Outcome(name, seed, trained, time.perf_counter() - started, note)


def _fuse(
    settings: ModelConfig, seed: int, members: Sequence[Outcome], steps: Steps, data_fingerprint: str, *, rerun: bool
) -> Outcome:
    missing = [outcome.name for outcome in members if outcome.trained is None]
    note = f"without {', '.join(missing)}" if missing else ""
    if (there := len(members) - len(missing)) < 2:
        problem = f"needs two members and has {there}" + (f" ({note})" if note else "")
        print(f"{settings.model_name}: not run, {problem}.")
        return Outcome(settings.model_name, seed, None, 0.0, problem)
    outcome = do(settings, seed, steps, data_fingerprint, rerun=rerun)
    return replace(outcome, note="; ".join(filter(None, [outcome.note, note])))


def row_settings(row: Row, config: MainConfig, seed: int, number: int) -> ModelConfig:
    """The settings of a suite's row, counted from 1, with one of the seeds."""
    own = {"seed": seed, "split_seed": config.drawn_with} | row.parameters
    return _settings(row.step, config, own, f"suite row {number} ({row.step})")


def _settings(step: str, config: MainConfig, own: dict[str, Any], where: str) -> ModelConfig:
    """What a row or a fusion sets itself, over what it shares with the suite."""
    values = {name: getattr(config, name) for name in _SHARED[step]}
    try:
        return MODEL_STEPS[step].model_validate(values | own)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(MODEL_STEPS[step], error)}") from None

"""Run a suite: every row that is not done yet, then the fusions of what is there.

A row is done when the store holds a finished run of the same model name, configuration, data fingerprint and code; it
is then taken over. So a killed suite, started again, continues at its first unfinished row; a row that another process
has under way is waited for, and taken over too. A row whose weights cannot be had is reported, and the rest goes on; a
fusion uses the members that are there and says which are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from soundstack.config.cli import explain
from soundstack.config.steps import Config, CrnnConfig, DataConfig, DeepSpectrumConfig, FuseConfig, MainConfig
from soundstack.config.suite import Fusion, Row
from soundstack.evaluation.evaluation import Trained
from soundstack.networks import weights
from soundstack.networks.registry import network_spec
from soundstack.tracking import reuse
from soundstack.utils.errors import ConfigError, MemberError, WeightsError
from soundstack.utils.locks import exclusive

C = TypeVar("C", bound=Config)

#: The entry points by name: configuration in, registered model out.
Steps = dict[str, Callable[[Any], Trained]]


@dataclass(frozen=True)
class Outcome:
    """What became of one row or fusion with one seed."""

    name: str
    seed: int
    trained: Trained | None
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
    fixed: dict[str, Outcome] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        of_seed: list[Outcome] = []
        for number, row in enumerate(rows, start=1):
            settings = _row_settings(row, config, seed, number)
            name = settings.model_name
            if name in fixed:
                of_seed.append(fixed[name])
                continue
            outcome = _do(name, seed, settings, steps[row.step], data_fingerprint, config.rerun == "yes")
            of_seed.append(outcome)
            outcomes.append(outcome)
            if not settings.is_random:
                fixed[name] = outcome
        for fusion in fusions:
            stack, members = _fusion_settings(fusion, config, seed, of_seed)
            if stack.model_name in fixed:
                continue
            outcome = _fuse(stack, members, seed, steps, data_fingerprint, config.rerun == "yes")
            outcomes.append(outcome)
            if not stack.is_random and all(member.name in fixed for member in members):
                fixed[stack.model_name] = outcome
    return outcomes


def _do(
    name: str, seed: int, settings: Any, step: Callable[[Any], Trained], data_fingerprint: str, rerun: bool
) -> Outcome:
    started = time.perf_counter()
    key = reuse.row_key(settings, data_fingerprint)
    with exclusive(Path(settings.cache_dir) / "rows" / f"{key}.lock", name):
        done = None if rerun else reuse.find_done(settings, data_fingerprint)
        if done is not None:
            print(f"{name}: done already, taken over (models:/{done.name}/{done.version}).")
            return Outcome(name, seed, done, time.perf_counter() - started, "taken over")
        try:
            if isinstance(settings, DeepSpectrumConfig):
                _require_weights(settings)
            trained = step(settings)
        except (WeightsError, MemberError) as error:
            print(f"{name}: not run. {error}")
            return Outcome(name, seed, None, time.perf_counter() - started, str(error))
        return Outcome(name, seed, trained, time.perf_counter() - started)


def _require_weights(settings: DeepSpectrumConfig) -> None:
    """Find or fetch published weights before a run is opened: without them there is nothing to track.

    Raises:
        WeightsError: They cannot be had.
    """
    if settings.chosen_pretraining != "none":
        folder = None if settings.weights_dir == "auto" else Path(settings.weights_dir)
        weights.find_or_fetch(network_spec(settings.network, settings.chosen_pretraining), folder)


def _fusion_settings(
    fusion: Fusion, config: MainConfig, seed: int, rows: list[Outcome]
) -> tuple[FuseConfig, list[Outcome]]:
    """A fusion's settings, and its members as this seed's rows made them, or failed to."""
    wanted = fusion.pick(config.data_name, [outcome.name for outcome in rows])
    members = [outcome for outcome in rows if outcome.name in wanted]
    there = [outcome.trained for outcome in members if outcome.trained is not None]
    settings = _validated(
        FuseConfig,
        {
            "dataset": config.dataset,
            "name": config.data_name if config.dataset == "csv" else "auto",
            "members": ",".join(f"{trained.name}/{trained.version}" for trained in there) or "none",
            "seed": seed,
            "suffix": fusion.suffix,
            "cache_dir": config.cache_dir,
            "nested": config.nested,
            "served_limits": config.served_limits,
            **fusion.parameters,
        },
        f"fusion {fusion.suffix}",
    )
    return settings, members


def _fuse(
    settings: FuseConfig, members: list[Outcome], seed: int, steps: Steps, data_fingerprint: str, rerun: bool
) -> Outcome:
    missing = [outcome.name for outcome in members if outcome.trained is None]
    note = f"without {', '.join(missing)}" if missing else ""
    if (there := len(members) - len(missing)) < 2:
        problem = f"needs two members and has {there}" + (f" ({note})" if note else "")
        print(f"{settings.model_name}: not run, {problem}.")
        return Outcome(settings.model_name, seed, None, 0.0, problem)
    outcome = _do(settings.model_name, seed, settings, steps["fuse"], data_fingerprint, rerun)
    notes = "; ".join(filter(None, [outcome.note, note]))
    return Outcome(outcome.name, outcome.seed, outcome.trained, outcome.seconds, notes)


def _row_settings(row: Row, config: MainConfig, seed: int, number: int) -> CrnnConfig | DeepSpectrumConfig:
    shared = {name: getattr(config, name) for name in DataConfig.model_fields}
    shared |= {"seed": seed, "split_seed": config.drawn_with}
    where = f"suite row {number} ({row.step})"
    if row.step == "crnn":
        return _validated(
            CrnnConfig,
            shared | {"epochs": config.epochs, "trials": config.trials, "nested": config.nested} | row.parameters,
            where,
        )
    extra = {"nested": config.nested, "weights_dir": config.weights_dir}
    return _validated(DeepSpectrumConfig, shared | extra | row.parameters, where)


def _validated(model: type[C], values: dict[str, Any], where: str) -> C:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(model, error)}") from None

"""The published data sets from download to fusion, on tiny archives in the exact official layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

import archives_for_tests as tiny
import main
from local_http import LocalServer
from soundstack.config.steps import MainConfig
from soundstack.datasets import download as sources
from soundstack.tracking import reader as tracking_reader

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("name", "channels"), [("dcase2017", "mean"), ("dcase2018", "each")])
def test_a_published_data_set_goes_from_download_to_a_registered_fusion(
    name: str, channels: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    built = tiny.BUILDERS[name]()
    tiny.publish(monkeypatch, name, built)
    folder = tmp_path / "data"
    with LocalServer(dict(built)) as server:
        done = sources.download(name, folder, base_url=server.url)
        assert len(done.fetched) == len(built)
    main.run(
        MainConfig(
            dataset=name,
            data_dir=str(folder),
            channels=channels,
            clip_seconds=0.5,
            cache_dir=str(tmp_path / "cache"),
            epochs=1,
            systems="crnn,efficientnet_lite0-none",
            nested=True,
        )
    )
    runs = {run.name: run for run in tracking_reader.finished_model_runs()}
    assert set(runs) == {f"{name}-crnn", f"{name}-efficientnet_lite0-none", f"{name}-fusion"}
    assert MlflowClient().get_model_version_by_alias(f"{name}-fusion", "champion")
    metrics = runs[f"{name}-fusion"].metrics
    assert 0 <= metrics["devel_nested_macro_f1"] <= 1
    microphones = {key for key in metrics if key.startswith(("test_known", "test_unknown"))}
    if name == "dcase2018":
        assert {"test_known_macro_f1", "test_unknown_macro_f1", "test_known_accuracy_ci_low"} <= microphones
    else:
        assert not microphones
    assert f"{name}-fusion" in capsys.readouterr().out

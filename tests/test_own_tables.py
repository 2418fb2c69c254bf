"""Two tables of a user's own, one after the other and again: whoever asks is answered by the model of his table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

import main
import predict
from soundstack.config.steps import MainConfig
from soundstack.config.tools import PredictConfig
from soundstack.utils.errors import ConfigError, MemberError

pytestmark = pytest.mark.e2e
NETWORK = "efficientnet_lite0-imagenet"


def test_the_first_table_s_model_answers_for_it_after_another_table_was_trained(
    store: str, tiny_csv: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    birds = tiny_csv(tmp_path / "birds", classes=2, with_folds=False)
    frogs = tiny_csv(tmp_path / "frogs", classes=2, seed=1)
    frogs.write_text(frogs.read_text().replace(",pitch", ",frog"))
    client = MlflowClient()

    def run(table: Path, **more: object) -> str:
        given = {"dataset": "csv", "data_dir": str(table), "cache_dir": str(tmp_path / "cache"), "epochs": 1}
        main.run(MainConfig.model_validate({**given, "systems": f"crnn,{NETWORK}", **more}))
        return capsys.readouterr().out

    def served(shown: str) -> str:
        (command,) = re.findall(r"models serve -m (\S+) ", shown)
        return str(command)

    assert served(run(birds)) == "models:/birds-fusion/1"
    assert served(run(frogs)) == "models:/frogs-fusion/1"
    again = run(birds)
    assert "0 rows run, 3 reused" in again
    assert served(again) == "models:/birds-fusion/1"

    asked = {"input": str(tmp_path / "birds"), "device": "cpu"}
    predict.run(PredictConfig(**asked, model="birds-fusion", output_dir=str(tmp_path / "out")))
    shown = capsys.readouterr().out
    assert "Model: birds-fusion/1, the champion\n" in shown
    assert "-P model=birds-fusion/1 " in shown, "the next command draws what this one scored"
    assert set(pd.read_csv(tmp_path / "out" / "files.csv")["label"]) <= {"pitch0", "pitch1"}
    with pytest.raises(MemberError, match=r"name the one to use, -P model=NAME. There are: birds-crnn, .*frogs-fusion"):
        predict.run(PredictConfig(**asked))

    before = len(client.search_model_versions())
    with pytest.raises(
        ConfigError, match=r"birds belongs to another table, of 10 clips \(birds-crnn/1, .*-P name=OTHER"
    ):
        run(frogs, name="birds")
    capsys.readouterr()
    assert len(client.search_model_versions()) == before

    other_folds = run(birds, split_seed=1, systems=NETWORK)
    assert served(other_folds) == f"models:/birds-{NETWORK}/2"
    assert f"the champion stays models:/birds-{NETWORK}/1, scored on other clips or folds" in other_folds
    assert str(client.get_model_version_by_alias(f"birds-{NETWORK}", "champion").version) == "1"

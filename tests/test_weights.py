"""Published weights: where they are found, how they are fetched, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from urllib3.util import Retry

from local_http import LocalServer
from soundstack.networks.registry import NETWORKS, NetworkSpec
from soundstack.networks.weights import find_or_fetch, load_state_dict, load_strictly
from soundstack.utils import download as remote
from soundstack.utils.errors import WeightsError

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}


def saved(content: Any, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


CONTENT = saved(STATE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(remote, "RETRY", Retry(total=0))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with LocalServer({"net.pth": CONTENT}) as running:
        yield running


def network(url: str = "http://127.0.0.1:1/net.pth", **known: Any) -> NetworkSpec:
    """A network whose weights are at ``url``; port 1 never answers."""
    return replace(NETWORKS["resnet50"], name="net", url=url, **{"sha256": None, **known})


def put(folder: Path, content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "net.pth"
    path.write_bytes(content)
    return path


def assert_one_line(error: pytest.ExceptionInfo[WeightsError]) -> None:
    assert "\n" not in str(error.value)


# --- finding and fetching -------------------------------------------------------------------------


def test_weights_in_the_given_folder_come_before_those_of_the_hub(tmp_path: Path, hub: Path) -> None:
    in_hub = put(hub)
    assert find_or_fetch(network(sha256=SHA256), tmp_path / "mine") == in_hub

    mine = put(tmp_path / "mine")
    assert find_or_fetch(network(sha256=SHA256), tmp_path / "mine") == mine
    assert find_or_fetch(network(sha256=SHA256)) == in_hub


def test_missing_weights_are_fetched_once_into_the_given_folder(server: LocalServer, tmp_path: Path) -> None:
    spec = network(server.url_of("net.pth"), sha256=SHA256[:8], size=len(CONTENT))

    first = find_or_fetch(spec, tmp_path / "mine")
    second = find_or_fetch(spec, tmp_path / "mine")

    assert first == second == tmp_path / "mine" / "net.pth"
    assert first.read_bytes() == CONTENT
    assert server.counts["net.pth"] == 1


def test_without_a_folder_weights_are_fetched_into_the_hub(server: LocalServer, hub: Path) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()

    assert find_or_fetch(network(server.url_of("net.pth"), md5=md5)) == hub / "net.pth"


@pytest.mark.parametrize("known", [{"sha256": "0" * 8}, {"md5": "0" * 32}, {"size": 3}])
def test_a_file_that_is_not_the_published_one_is_refused_by_name(tmp_path: Path, known: dict[str, Any]) -> None:
    path = put(tmp_path / "mine")

    with pytest.raises(WeightsError, match="is not the published file") as error:
        find_or_fetch(network(**known), tmp_path / "mine")

    assert str(path) in str(error.value)
    assert_one_line(error)


def test_a_download_that_is_not_the_published_file_leaves_nothing(server: LocalServer, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="0" * 64) as error:
        find_or_fetch(network(server.url_of("net.pth"), sha256="0" * 64), tmp_path / "mine")

    assert_one_line(error)
    assert not (tmp_path / "mine" / "net.pth").exists()


def test_unreachable_weights_are_named_with_where_to_put_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as error:
        find_or_fetch(network(), tmp_path / "mine")

    for needed in ("http://127.0.0.1:1/net.pth", str(tmp_path / "mine" / "net.pth"), "pretraining=none"):
        assert needed in str(error.value)
    assert_one_line(error)


def test_nothing_is_fetched_where_downloads_are_switched_off(server: LocalServer, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="downloads are switched off") as error:
        find_or_fetch(network(server.url_of("net.pth")), tmp_path / "mine", allow_download=False)

    assert server.url_of("net.pth") in str(error.value)
    assert_one_line(error)
    assert not server.requests


def test_weights_of_a_package_that_is_not_installed_name_it() -> None:
    spec = replace(NETWORKS["efficientnet_lite0"], url="package://no_such_package/x.pth")

    with pytest.raises(WeightsError, match="install no-such-package"):
        find_or_fetch(spec)


def test_the_packaged_weights_are_the_published_ones() -> None:
    path = find_or_fetch(NETWORKS["efficientnet_lite0"], allow_download=False)

    assert hashlib.sha256(path.read_bytes()).hexdigest().startswith("57934424")


# --- reading --------------------------------------------------------------------------------------


def assert_is_state(state: dict[str, Tensor]) -> None:
    assert list(state) == list(STATE)
    for key, tensor in STATE.items():
        torch.testing.assert_close(state[key], tensor, rtol=0, atol=0)


def test_a_plain_state_dict_is_read(tmp_path: Path) -> None:
    assert_is_state(load_state_dict(put(tmp_path)))
    old_format = saved(STATE, _use_new_zipfile_serialization=False)  # torchvision's older files
    assert_is_state(load_state_dict(put(tmp_path, old_format)))


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "net.safetensors")

    state = load_state_dict(tmp_path / "net.safetensors")

    assert_is_state({key: state[key] for key in STATE})


def test_the_model_is_taken_from_a_checkpoint_that_also_holds_the_state_of_its_training(
    tmp_path: Path,
) -> None:
    sampler = {"indexes": [np.arange(3), np.ones(2, dtype=np.float32)], "pointer": np.int64(7)}
    content = saved({"iteration": 600_000, "model": STATE, "sampler": sampler})

    assert_is_state(load_state_dict(put(tmp_path, content)))


def test_a_checkpoint_that_numpy_1_pickled_is_read(tmp_path: Path) -> None:
    content = saved({"iteration": 1, "model": STATE, "sampler": {"indexes": np.arange(3), "at": np.int64(1)}})
    assert b"numpy._core" in content

    old = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(old, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))

    assert_is_state(load_state_dict(put(tmp_path, old.getvalue())))


class Hostile:
    """Pickled, an order to make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for content in (saved({"model": STATE, "x": Hostile(mark)}), pickle.dumps(Hostile(mark), protocol=2)):
        path = put(tmp_path, content)
        with pytest.raises(WeightsError, match=r"is refused: it is damaged, .*, or holds more than") as error:
            load_state_dict(path)

        assert str(path) in str(error.value)
        assert_one_line(error)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html><title>Sign in</title>", CONTENT[: len(CONTENT) // 2]],
    ids=["empty", "html", "cut"],
)
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(WeightsError, match="is refused: it is damaged, not a file of weights") as error:
        load_state_dict(tmp_path / name)

    assert_one_line(error)


def test_a_missing_file_or_one_without_a_state_dict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        load_state_dict(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_state_dict(put(tmp_path, saved([1, 2])))
    with pytest.raises(WeightsError, match="holds no state dict"):
        load_state_dict(put(tmp_path, saved({"epoch": 3})))


# --- loading --------------------------------------------------------------------------------------


def test_a_state_is_loaded_exactly_onto_a_laid_out_network() -> None:
    with torch.device("meta"):
        net = nn.Linear(3, 2)

    load_strictly(net, {key: tensor.double() for key, tensor in STATE.items()}, "net.pth")

    assert_is_state(net.state_dict())
    assert net.weight.dtype == torch.float32


def test_only_the_counter_of_batch_norm_may_be_missing() -> None:
    net = nn.BatchNorm1d(2)
    state = {key: tensor + 1 for key, tensor in net.state_dict().items() if key != "num_batches_tracked"}

    load_strictly(net, state, "net.pth")

    assert net.num_batches_tracked == 0
    assert net.weight.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({"weight": STATE["weight"]}, r"net\.pth is not of this network: it lacks the key 'bias'\."),
        (
            STATE | {"scale": torch.ones(1), "shift": torch.ones(1)},
            r"it has, and this network does not, the key 'scale' and 1 more\.",
        ),
        (STATE | {"bias": torch.ones(3)}, r"its key 'bias' has shape \(3,\) where \(2,\) is needed"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_a_state_of_another_network_is_refused_with_the_keys_name(state: dict[str, Tensor], complaint: str) -> None:
    net = nn.Linear(3, 2)
    before = net.weight.clone()

    with pytest.raises(WeightsError, match=complaint) as error:
        load_strictly(net, state, "net.pth")

    assert_one_line(error)
    assert torch.equal(net.weight, before)

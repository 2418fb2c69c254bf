"""Published weights: found or fetched, verified, read without running code, and loaded strictly.

A file is looked for in ``weights_dir`` (if one is given) and then in torch hub's cache, where torchvision and
others put theirs; only if it is in neither is it fetched, into ``weights_dir`` or else into that cache. Found
or fetched, it is used only if it has the published checksum. Strict means: a checkpoint that lacks a key, has
one too many or one of another shape is of another network, and is refused with the key's name.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from numpy._core import multiarray
from safetensors.torch import load_file
from torch import Tensor, nn

from soundstack.networks.registry import NetworkSpec, load_open
from soundstack.utils import download as remote
from soundstack.utils import object_store
from soundstack.utils.errors import DownloadError, WeightsError
from soundstack.utils.remote_file import RemoteFile, content_digest

_COUNTER = "num_batches_tracked"  # of training steps: files of before 2018 lack it, and nothing here reads it


def find_or_fetch(spec: NetworkSpec, weights_dir: Path | str | None = None, *, allow_download: bool = True) -> Path:
    """Return the verified file of a network's published weights, fetching it if need be; of an open one its folder.

    Args:
        spec: the network.
        weights_dir: looked into first, and fetched into; default: torch hub's cache
            (``$TORCH_HOME/hub/checkpoints``, by default below ``~/.cache/torch``), into which a file is copied from
            an object store whose URI is given.
        allow_download: fetch a file that is not there.

    Raises:
        WeightsError: the file is not there and cannot be fetched, or it is not the published one.
    """
    if (network := load_open(spec.name)) is not None:
        return network.find_or_fetch(weights_dir, allow_download=allow_download)
    file = RemoteFile(url=spec.url, name=spec.file, size=spec.size, md5=spec.md5, sha256=spec.sha256)
    place = urlsplit(spec.url)
    if place.scheme == "package":
        return _packaged(spec, file, place.netloc, place.path)
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    if shared := str(weights_dir) if object_store.is_uri(str(weights_dir)) else "":
        stored = object_store.listed(shared).get(file.name)
        object_store.fetch(shared, {file.name: stored} if stored else {}, hub)
    folders = [hub] if weights_dir is None or shared else [Path(weights_dir), hub]
    for folder in folders:
        path = folder / file.name
        if path.is_file():
            _verify(path, file, "Delete it, and the right one is fetched in its place.")
            return path
    target = folders[0] / file.name
    if not allow_download:
        places = " nor in ".join(str(folder) for folder in folders)
        raise WeightsError(
            f"The weights of {spec.name} ({file.name}) are not in {places}, and downloads are switched off: "
            f"fetch {file.url} by other means and save it as {target}, or set pretraining=none."
        )
    try:
        return remote.fetch([file], folders[0])[0]
    except DownloadError as error:
        raise WeightsError(
            f"The weights of {spec.name} cannot be had: {error} Random weights need none: pretraining=none."
        ) from error


def identity(
    spec: NetworkSpec, pretraining: str, weights_dir: Path | str | None = None, *, allow_download: bool = True
) -> str:
    """Tell one file of weights from another: by the published checksum, which no other file passes, or by its own.

    Without a published checksum, the file is fetched if need be. Of an open network, the files that describe it count,
    too, also where its weights are random.

    Raises:
        WeightsError: as :func:`find_or_fetch`.
    """
    if (network := load_open(spec.name)) is not None:
        return network.identity(weights_dir, random=pretraining == "none", allow_download=allow_download)
    if pretraining == "none":
        return "random"
    if published := spec.sha256 or spec.md5:
        return published
    return content_digest(find_or_fetch(spec, weights_dir, allow_download=allow_download))


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file or of a PyTorch checkpoint, to the CPU.

    A ``.tflite`` file, a whole network in a form of its own, comes as one tensor ``flatbuffer`` of its bytes.

    Of a checkpoint that holds more than weights (``{"model": ..., "iteration": ...}``, as PANNs' do), the
    ``model`` is returned. Nothing in the file is executed: pickled globals other than tensors and NumPy
    arrays are refused.

    Raises:
        WeightsError: the file cannot be read, is no checkpoint, or holds other things than tensors.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".tflite":
            return {"flatbuffer": torch.from_numpy(np.fromfile(path, np.uint8))}
        with torch.serialization.safe_globals(_numpy_globals()):
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}. Check the file.") from error
    except Exception as error:  # of many kinds; their messages are long, and advise to read the file unsafely
        raise WeightsError(
            f"{path} is refused: it is damaged, not a file of weights, or holds more than tensors. "
            "Delete it and let it be fetched anew, or replace it by the published file."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no state dict (names with tensors): replace it by the published file.")
    return dict(content)


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put ``state`` into ``module`` (which may be on the meta device), exactly.

    Only batch norm's ``num_batches_tracked`` may be missing. Tensors take the module's dtype and are not
    copied where they have it already.

    Args:
        module: the network; its parameters and buffers are replaced.
        state: name to tensor.
        source: where the state is from, for the message.

    Raises:
        WeightsError: a key is missing, unknown, or of another shape.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith(_COUNTER)]
    unknown = [key for key in state if key not in expected]
    for keys, what in ((missing, "lacks"), (unknown, "has, and this network does not,")):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise WeightsError(
                f"{source} is not of this network: it {what} the key {keys[0]!r}{more}. Use the published file."
            )
    for key, tensor in state.items():
        check_shape(key, tensor, tuple(expected[key].shape), source)
    complete = {
        key: state[key].to(like.dtype) if key in state else torch.zeros(like.shape, dtype=like.dtype)
        for key, like in expected.items()
    }
    module.load_state_dict(complete, strict=True, assign=True)


def without_front_end(
    state: Mapping[str, Tensor], front_end: Mapping[str, tuple[int, ...]], source: str
) -> dict[str, Tensor]:
    """The state dict without the tensors of its spectrogram, which is computed here; but their shapes are checked.

    Raises:
        WeightsError: the checkpoint is of a variant with another spectrogram.
    """
    for key, shape in front_end.items():
        if key in state:
            check_shape(key, state[key], shape, source)
    return {key: tensor for key, tensor in state.items() if key not in front_end}


def check_shape(key: str, tensor: Tensor, shape: tuple[int, ...], source: str) -> None:
    """Refuse a tensor of another shape.

    Raises:
        WeightsError: naming ``key`` and both shapes.
    """
    if tuple(tensor.shape) != shape:
        raise WeightsError(
            f"{source} is not of this network: its key {key!r} has shape {tuple(tensor.shape)} "
            f"where {shape} is needed. Use the published file."
        )


def _packaged(spec: NetworkSpec, published: RemoteFile, package: str, inside: str) -> Path:
    """The file of weights in an installed package, where what else the network needs is installed, too."""
    others = [requirement.partition("==")[0].replace("-", "_") for requirement in spec.install.split()]
    modules = {each: importlib.util.find_spec(each) for each in (package, *others)}
    for missing in (each for each, module in modules.items() if module is None):
        name = missing.replace("_", "-")
        remedy = spec.how_to_install or f"install {name}"
        raise WeightsError(f"{spec.name} needs the Python package {name}, which is not installed: {remedy}.")
    path = Path(str(getattr(modules[package], "origin", ""))).parent / inside.lstrip("/")
    if not path.is_file():
        raise WeightsError(f"{path} (the weights of {spec.name}) is missing: reinstall the package {package}.")
    _verify(path, published, f"Reinstall the package {package}.")
    return path


def _verify(path: Path, published: RemoteFile, remedy: str) -> None:
    try:
        fault = published.fault(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
    if fault is not None:
        raise WeightsError(f"{path} is not the published file: {fault}. {remedy}")


def _numpy_globals() -> list[Any]:
    """What PANNs' checkpoints hold beside tensors: the arrays of their data sampler, pickled by NumPy 1."""
    functions: list[tuple[Any, str]] = [
        (getattr(multiarray, function), f"{package}.multiarray.{function}")
        for function in ("_reconstruct", "scalar")
        for package in ("numpy.core", "numpy._core")  # NumPy 1 and 2 name the same functions differently
    ]
    dtypes = {type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}
    return [np.ndarray, np.dtype, *functions, *dtypes]

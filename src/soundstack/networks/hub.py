"""Models of the Hugging Face hub: their files are found in its cache or fetched into it, and only safe ones.

A model is ``ORG/NAME`` or ``ORG/NAME@REVISION`` of the hub, or a folder with the same files. What is in a cache is used
as it is there, without asking the hub: a later run has the same files as the first one. Weights are ``safetensors``
alone; the hub is told nothing about its users, and none of its code is run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants, errors

from soundstack.networks.registry import folder_of
from soundstack.utils import object_store
from soundstack.utils.errors import WeightsError
from soundstack.utils.project import fingerprint
from soundstack.utils.remote_file import content_digest

constants.HF_HUB_DISABLE_TELEMETRY = True

_SMALL = ("config.json", "preprocessor_config.json", "processor_config.json", "README.md")
_PICKLED = {".bin", ".pth", ".pt", ".ckpt", ".h5", ".msgpack"}


@dataclass(frozen=True)
class Files:
    """The files of a model in a folder, and the commit that they are of (empty: they are in a folder of the user's)."""

    folder: Path
    revision: str = ""


@dataclass(frozen=True)
class Source:
    """Where a model's files come from.

    Attributes:
        network: its name, for messages.
        repository: ``ORG/NAME`` of the hub; empty: ``folder`` has the files.
        revision: a branch, tag, ``refs/pr/N`` or commit.
        folder: of the user's.
        weights: the file of weights; a model in several files has an index beside it.
        needed: small files without which it cannot be used.
    """

    network: str
    repository: str = ""
    revision: str = "main"
    folder: Path | None = None
    weights: str = "model.safetensors"
    needed: tuple[str, ...] = ("config.json",)

    @classmethod
    def of(cls, network: str) -> Source:
        """The source that a network's name gives behind its colon."""
        if (folder := folder_of(network)) is not None:
            return cls(network, folder=folder)
        repository, _, revision = network.partition(":")[2].partition("@")
        return cls(network, repository, revision or "main")

    @property
    def url(self) -> str:
        """Where people read about the model; empty for a folder."""
        return f"{constants.ENDPOINT}/{self.repository}" if self.repository else ""

    def find_or_fetch(self, weights_dir: Path | str | None, *, whole: bool, allow_download: bool = True) -> Files:
        """Return the files, fetching them if need be; without ``whole``, the small ones alone.

        Raises:
            WeightsError: files are missing and cannot be fetched, or the weights are pickled.
        """
        if self.folder is not None:
            if not self.folder.is_dir():
                raise WeightsError(f"{self.network}: {self.folder} is no folder.")
            if lacking := self._lacking(self.folder, whole=whole):
                self._refuse_pickles(self.folder, lacking)
                raise WeightsError(
                    f"{self.folder} lacks {lacking}: give a folder that the library's own save function wrote, "
                    "with safetensors."
                )
            return Files(self.folder)
        usual = Path(constants.HF_HUB_CACHE)
        caches = [usual]
        if object_store.is_uri(str(weights_dir)):
            self._take_over(str(weights_dir), usual, whole=whole)
        elif weights_dir is not None:
            caches.insert(0, Path(weights_dir))
        for place in caches:
            found = self._cached(place)
            if found is not None and not self._lacking(found.folder, whole=whole):
                return found
        if not allow_download:
            raise WeightsError(self._absent(caches, "downloads are switched off"))
        return self._fetched(caches, whole=whole)

    def weight_files(self, folder: Path) -> list[Path] | None:
        """The files of weights in a folder, or None: they are not all there.

        Raises:
            WeightsError: the index of the files is damaged.
        """
        if (one := folder / self.weights).is_file():
            return [one]
        index = folder / f"{self.weights}.index.json"
        if not index.is_file():
            return None
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise WeightsError(f"{index} is not an index of files of weights; fetch it anew.") from None
        if any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise WeightsError(f"{index} names files that are not safetensors beside it; they are not loaded.")
        paths = [folder / name for name in names]
        return paths if paths and all(path.is_file() for path in paths) else None

    def identity(self, weights_dir: Path | str | None, *, whole: bool, allow_download: bool = True) -> str:
        """A digest of the contents of the files that make the network.

        Raises:
            WeightsError: as :meth:`find_or_fetch`.
        """
        folder = self.find_or_fetch(weights_dir, whole=whole, allow_download=allow_download).folder
        paths = [folder / name for name in _SMALL if name.endswith(".json")]
        paths += (self.weight_files(folder) or []) if whole else []
        return fingerprint({path.name: content_digest(path) for path in paths if path.is_file()})

    def licence(self, files: Files) -> str:
        """The licence that the model's own page states, in the head of its ``README.md``."""
        try:
            stated: dict[str, Any] = huggingface_hub.metadata_load(files.folder / "README.md") or {}
        except Exception:  # no page, or a head that is no YAML: of many kinds, and only said less
            stated = {}
        licence, link = stated.get("license"), stated.get("license_link")
        name = stated.get("license_name") if licence == "other" else None
        if isinstance(licence, list):
            licence = ", ".join(map(str, licence))
        if licence is None:
            return f"not stated: see {self.url}" if self.url else "not stated"
        return f"{name or licence}{f' ({link})' if link else ''}"

    def _lacking(self, folder: Path, *, whole: bool) -> str:
        """The first file that a folder lacks, or nothing."""
        for name in self.needed:
            if not (folder / name).is_file():
                return name
        return self.weights if whole and self.weight_files(folder) is None else ""

    def _refuse_pickles(self, folder: Path, lacking: str) -> None:
        pickled = _pickled(folder.iterdir())
        if lacking == self.weights and pickled and not (folder / f"{self.weights}.index.json").is_file():
            raise WeightsError(f"{self.network} has pickled weights alone ({pickled}). {self._convert()}")

    def _convert(self) -> str:
        elsewhere = (
            f"Give a revision that has safetensors, such as network={self.network.partition('@')[0]}@refs/pr/1 where "
            "one was proposed, or a folder: load"
            if self.repository
            else "Load"
        )
        return (
            f"They can run code and are never loaded. {elsewhere} the model where you trust it, save it with "
            f"save_pretrained(FOLDER), and give network={self.network.partition(':')[0]}:FOLDER."
        )

    def _take_over(self, shared: str, usual: Path, *, whole: bool) -> None:
        """Copy what a hub's cache in an object store has of this revision into that of this host.

        Links do not go into a store, so that the files of a snapshot lie there themselves; those here stay as they are.

        Raises:
            StoreError: the store cannot be asked.
        """
        name = f"models--{self.repository.replace('/', '--')}"
        there, here, ref = object_store.listed(f"{shared}/{name}"), usual / name, f"refs/{self.revision}"
        known = (here / ref).is_file() or ref in there
        if ref in there and not (here / ref).is_file():
            object_store.fetch(f"{shared}/{name}", {ref: there[ref]}, here)
        commit = (here / ref).read_text(encoding="utf-8").strip() if known else self.revision
        wanted = {
            path: stored
            for path, stored in there.items()
            if path.startswith(f"snapshots/{commit}/") and (whole or not path.endswith(".safetensors"))
        }
        missing = {path: stored for path, stored in wanted.items() if not (here / path).is_file()}
        object_store.fetch(f"{shared}/{name}", missing, here)

    def _cached(self, place: Path) -> Files | None:
        """What a cache has of this revision, be it complete or not."""
        try:
            folder = huggingface_hub.snapshot_download(
                self.repository, revision=self.revision, cache_dir=place, local_files_only=True, allow_patterns=[]
            )
        except (errors.LocalEntryNotFoundError, OSError, ValueError):
            return None
        return Files(Path(folder), Path(folder).name)

    def _fetched(self, caches: list[Path], *, whole: bool) -> Files:
        """Fetch into the first of the caches.

        Raises:
            WeightsError: as :meth:`find_or_fetch`.
        """
        if not sys.stderr.isatty():  # in a log, bars are noise
            huggingface_hub.utils.disable_progress_bars()
        stem = self.weights.removesuffix(".safetensors")
        weights = [self.weights, f"{self.weights}.index.json", f"{stem}-*-of-*.safetensors"]
        patterns = [*_SMALL, *(weights if whole else [])]
        try:
            if whole and not constants.HF_HUB_OFFLINE:
                print(f"Fetching {self.repository}@{self.revision} from {constants.ENDPOINT} ...", file=sys.stderr)
            folder = huggingface_hub.snapshot_download(
                self.repository, revision=self.revision, cache_dir=caches[0], allow_patterns=patterns
            )
        except errors.GatedRepoError:
            raise WeightsError(
                f"{self.network} is given to those alone who accepted its terms: accept them at {self.url}, run "
                "`hf auth login`, and try again."
            ) from None
        except errors.RevisionNotFoundError:
            raise WeightsError(f"{self.network}: there is no revision {self.revision!r}; see {self.url}.") from None
        except errors.RepositoryNotFoundError:
            raise WeightsError(
                f"{constants.ENDPOINT} has no {self.repository} that you may read: check the name, or run "
                "`hf auth login` where it is private."
            ) from None
        except Exception as error:  # of many kinds: of the connection, the hub, the disk
            reason = "the hub is switched off" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
            if not isinstance(error, errors.LocalEntryNotFoundError):
                reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise WeightsError(self._absent(caches, reason)) from error
        found = Files(Path(folder), Path(folder).name)
        if lacking := self._lacking(found.folder, whole=whole):
            self._refuse_pickles(found.folder, lacking)
            try:  # without a connection, what a cache has is returned, be it all or not
                there = huggingface_hub.list_repo_files(self.repository, revision=found.revision)
            except Exception:
                raise WeightsError(self._absent(caches, "the hub cannot be reached")) from None
            if lacking == self.weights and (pickled := _pickled(Path(name) for name in there)):
                raise WeightsError(f"{self.network} has pickled weights alone ({pickled}). {self._convert()}")
            raise WeightsError(f"{self.network} has no {lacking}: it is not a model of this kind; see {self.url}.")
        return found

    def _absent(self, caches: list[Path], reason: str) -> str:
        places = " nor in ".join(map(str, caches))
        revision = "" if self.revision == "main" else f" --revision {self.revision}"
        return (
            f"The files of {self.network} are not in {places}, and they cannot be fetched ({reason}): run "
            f"`hf download {self.repository}{revision}` where there is a network and copy the folder models--"
            f"{self.repository.replace('/', '--')} from its cache into {caches[0]}, or give a folder with the files, "
            f"network={self.network.partition(':')[0]}:/path/to/folder."
        )


def _pickled(paths: Iterable[Path]) -> str:
    """The first file of weights in a form that is not read, or nothing."""
    return min((path.name for path in paths if path.suffix in _PICKLED), default="")

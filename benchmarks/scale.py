"""How time, memory and open files grow with the number of clips: scan, log-mel extraction, and an epoch of the CRNN.

    python benchmarks/scale.py                          # 500, 1,000, 2,000 and 4,000 clips
    python benchmarks/scale.py --sizes 1000 10000 73000 --training mapped --folder /big/disk
    python benchmarks/scale.py --sizes 25000 100000 --seconds 0.1 --channels 1 --open-files 256 --training none

Clips have the shape of DCASE 2018's: 4 channels, 16 kHz, 10 s, 16 bit: FLAC files of noise, each its own.
Each size is worked on in a process of its own, which reports the seconds of each stage, the highest memory in it, and
how many files were open at most, with a limit on these on request. The first stage decodes every file once, describes
it and makes its spectrogram; the second makes what is missing, and finds the spectrograms in the cache. The memory is
the process's own, without pages of mapped files, which the system takes back when it needs them. The epoch is trained
twice: from a file that is mapped (what is done where spectrograms exceed a quarter of the memory), and from
spectrograms in memory. A growth of 1 means that time is proportional to the number of clips.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT / "src"))

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from tqdm import tqdm  # noqa: E402

from soundstack.utils.files import replaced  # noqa: E402

RATE, CLASSES, FOLDS = 16_000, 9, ("1", "2", "3", "4", "test")


def write_clip(path: Path, number: int, frames: int, channels: int) -> None:
    """Write one clip: faint noise, louder in a part of the spectrum that its class chooses."""
    if path.is_file():
        return
    random = np.random.default_rng(number)
    samples = random.integers(-40, 41, (frames, channels)).astype(np.int16)
    tone = 300 * np.sin(np.arange(frames) * (0.05 + 0.25 * (number % CLASSES)))
    with replaced(path) as file:
        soundfile.write(file, samples + tone.astype(np.int16)[:, None], RATE, format="FLAC")


def write_clips(folder: Path, count: int, seconds: float, channels: int) -> Path:
    """Write clips and their table; clips of a smaller size are reused."""
    shape = f"{seconds:g}s-{channels}ch"
    (folder / shape).mkdir(parents=True, exist_ok=True)
    paths = [folder / shape / f"{number:06}.flac" for number in range(count)]
    write = partial(write_clip, frames=round(RATE * seconds), channels=channels)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(tqdm(pool.map(write, paths, range(count)), total=count, desc="writing", leave=False))
    table = folder / f"clips-{shape}-{count}.csv"
    with table.open("w", newline="") as file:
        rows = [
            (f"{shape}/{path.name}", f"class{n % CLASSES}", FOLDS[n // CLASSES % len(FOLDS)])
            for n, path in enumerate(paths)
        ]
        csv.writer(file).writerows([("filename", "label", "fold"), *rows])
    return table


def own() -> float:
    """The memory of this process now, without mapped files, in MiB; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def opened() -> int:
    """The files that this process has open; 0 where the system does not tell."""
    try:
        return len(list(Path("/proc/self/fd").iterdir()))
    except OSError:
        return 0


class Highest:
    """Looks at this process ten times a second, until the block ends: ``mebibytes`` of own memory, open ``files``."""

    def __enter__(self) -> Highest:
        self.mebibytes, self.files = own(), opened()
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            self.mebibytes, self.files = max(self.mebibytes, own()), max(self.files, opened())


def measure(table: Path, cache: Path, training: str) -> dict[str, Any]:
    """Work on one size in this process, and return seconds and highest own memory (MiB) by stage."""
    import torch

    from soundstack.config.steps import ExtractConfig
    from soundstack.crnn.training import CrnnJob, TrainingSpec
    from soundstack.datasets.open_data_set import open_data_set
    from soundstack.features import store as stores
    from soundstack.spectrograms.extract import extraction
    from soundstack.training.fold import train_fold

    config = ExtractConfig(dataset="csv", data_dir=str(table), cache_dir=str(cache))
    found: dict[str, Any] = {}

    def stage(name: str, work: Any) -> Any:
        started = time.perf_counter()
        with Highest() as highest:
            result = work()
        found[name] = {"seconds": time.perf_counter() - started, "own": highest.mebibytes, "open": highest.files}
        return result

    begun = extraction(config)
    data_set = stage("scan, log-mel", lambda: open_data_set(config, begun))
    stores.MEMORY_SHARE = 0  # the store is read from a mapped file first: memory never sinks again
    mapped = stage("rest, read", lambda: begun.finish(data_set)).values
    if training == "none":
        return found
    folds, targets = data_set.example_folds, torch.from_numpy(data_set.example_targets)
    rows = [torch.from_numpy(np.flatnonzero(part)) for part in ((folds != "1") & (folds != "test"), folds == "1")]
    spec = TrainingSpec("three_blocks", 0.001, 64, epochs=1)

    def train(inputs: Any) -> None:
        train_fold(CrnnJob(inputs, targets, *rows, spec, CLASSES, fold="1", device=torch.device("cpu")))

    stage("epoch, mapped", lambda: train(Path(mapped.filename)))
    if training == "both":
        stage("epoch, in memory", lambda: train(torch.from_numpy(np.array(mapped))))
    return found


def draw(results: dict[int, dict[str, Any]], path: Path) -> None:
    """Draw time and memory by number of clips."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    times, memory = figure.subplots(1, 2)
    sizes = list(results)
    for name in next(iter(results.values())):
        times.loglog(sizes, [results[size][name]["seconds"] for size in sizes], "o-", label=name)
        memory.semilogx(sizes, [results[size][name]["own"] for size in sizes], "o-", label=name)
    times.set(xlabel="clips", ylabel="seconds", title="Time")
    memory.set(xlabel="clips", ylabel="MiB", title="Highest memory, without mapped files")
    memory.set_ylim(bottom=0)
    for axes in (times, memory):
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure every size in a process of its own, print the table, and draw it on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 4000])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=4, help="channels of a clip (default: %(default)s)")
    parser.add_argument("--open-files", type=int, help="let a process have so many files open, as ulimit -n does")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where to write the clips (about 0.6 MB each of the default shape); default: temporary",
    )
    parser.add_argument("--plot", type=Path, help="draw the curves to this PNG file")
    parser.add_argument(
        "--training", choices=["both", "mapped", "none"], default="both", help="which epochs (default: %(default)s)"
    )
    parser.add_argument("--measure", nargs=2, metavar=("TABLE", "CACHE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        if options.open_files:
            import resource

            resource.setrlimit(resource.RLIMIT_NOFILE, (options.open_files, options.open_files))
        print(json.dumps(measure(*map(Path, options.measure), options.training)))
        return
    results: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        for size in sorted(options.sizes):
            table = write_clips(folder, size, options.seconds, options.channels)
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, __file__, "--measure", str(table), cache, "--training", options.training]
                command += ["--open-files", str(options.open_files)] if options.open_files else []
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[size] = json.loads(done.stdout.splitlines()[-1])
    stages = list(next(iter(results.values())))
    print("clips   " + "".join(f"{name:>36}" for name in stages))
    for size, found in results.items():
        cells = [
            f"{found[name]['seconds']:8.1f} s, {found[name]['own']:6.0f} MiB, {found[name]['open']:4} open"
            for name in stages
        ]
        print(f"{size:<8}" + "".join(f"{cell:>36}" for cell in cells))
    smallest, largest = min(results), max(results)
    if smallest < largest:
        growth = [
            np.log(results[largest][name]["seconds"] / results[smallest][name]["seconds"]) / np.log(largest / smallest)
            for name in stages
        ]
        print("growth  " + "".join(f"{value:36.2f}" for value in growth))
    if options.plot:
        draw(results, options.plot)


if __name__ == "__main__":
    main()

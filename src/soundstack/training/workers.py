"""Train folds side by side: one process a fold with its share of the cores.

A network of this size keeps one core busy but not two: its operations are too small to split. Folds are independent, so
they run in processes of their own (spawned, not forked: torch's threads do not survive a fork). A worker ends with its
parent, however that one ends.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from soundstack.training.fold import FoldJob, FoldModel, Progress, train_fold
from soundstack.utils.devices import keep_pages
from soundstack.utils.errors import WorkerError
from soundstack.utils.project import cores

_POLL_SECONDS = 0.2
_epochs: Any = None  # in a worker: the epochs that all of them have done


def train_side_by_side(
    jobs: Sequence[FoldJob], progress: Progress, on_fold: Callable[[str, FoldModel], object]
) -> dict[str, FoldModel]:
    """Train every fold and return the models in order.

    Args:
        progress: Called here, in the caller's process, with the number of epochs done since the last call.
        on_fold: Called fold by fold, in order; it may raise to stop the rest.

    Raises:
        WorkerError: A worker was ended from outside.
        StoreError: A checkpoint cannot be written.
    """
    _settle_sockets()
    count = min(len(jobs), cores())
    context = multiprocessing.get_context("spawn")
    epochs, told = context.Value("q", 0), 0
    pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_start_worker, initargs=(epochs, max(1, cores() // count))
    )
    trained: dict[str, FoldModel] = {}
    try:
        for job, future in [(job, pool.submit(_train, job)) for job in jobs]:
            done = False
            while not done:
                done = bool(wait([future], timeout=_POLL_SECONDS).done)
                now = epochs.get_obj().value  # without its lock: a worker may have been killed with it
                progress(now - told)
                told = now
            trained[job.fold] = future.result()
            on_fold(job.fold, trained[job.fold])
    except BaseException as error:
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        if isinstance(error, BrokenProcessPool):
            raise WorkerError(
                "A process that trains a fold was ended from outside, mostly for want of memory: close other programs. "
                "Finished epochs are kept; the same command continues."
            ) from None
        raise
    pool.shutdown()
    return trained


def _settle_sockets() -> None:
    """Let multiprocessing have its sockets where it always has, for the whole process: a run's temporary folder ends
    before they do, and its longer path may be too long for a socket."""
    ours, tempfile.tempdir = tempfile.tempdir, None
    try:
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = ours


def _start_worker(epochs: Any, threads: int) -> None:
    global _epochs
    _epochs = epochs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    torch.set_num_threads(threads)
    keep_pages()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _train(job: FoldJob) -> FoldModel:
    def count(done: int) -> None:
        with _epochs.get_lock():
            _epochs.value += done

    return train_fold(job, count)

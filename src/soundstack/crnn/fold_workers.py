"""Train folds side by side: one process a fold with its share of the cores.

A CRNN of this size keeps one core busy but not two: its operations are too small to split. Folds are independent, so
they run in processes of their own (spawned, not forked: torch's threads do not survive a fork). A worker ends with its
parent, however that one ends.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import queue
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

import torch

from soundstack.crnn.training import FoldJob, FoldModel, epochs, train_fold
from soundstack.utils.devices import keep_pages
from soundstack.utils.errors import WorkerError
from soundstack.utils.project import cores

#: Called after every epoch: fold, epoch (from 1), values of the history.
OnEpoch = Callable[[str, int, dict[str, float]], object]

_POLL_SECONDS = 0.2
_messages: Any = None


def train_side_by_side(
    jobs: Mapping[str, FoldJob], on_epoch: OnEpoch, on_fold: Callable[[str, FoldModel], object]
) -> dict[str, FoldModel]:
    """Train every fold and return the models in order.

    Args:
        jobs: What to train, by fold.
        on_epoch: Called here, in the caller's process, as epochs end in any of the workers.
        on_fold: Called fold by fold, in order; it may raise to stop the rest.

    Raises:
        WorkerError: A worker was ended from outside.
        StoreError: A checkpoint cannot be written.
    """
    _settle_sockets()
    count = min(len(jobs), cores())
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        count, mp_context=context, initializer=_start_worker, initargs=(messages, max(1, cores() // count), os.getpid())
    )
    try:
        futures = {fold: pool.submit(_train, job) for fold, job in jobs.items()}
        trained: dict[str, FoldModel] = {}
        told: Counter[str] = Counter()  # the last epoch of every fold that the caller knows

        def tell(fold: str, epoch: int, values: dict[str, float]) -> None:
            if epoch > told[fold]:
                told[fold] = epoch
                on_epoch(fold, epoch, values)

        for fold, future in futures.items():
            while not future.done():
                with suppress(queue.Empty):
                    tell(*messages.get(timeout=_POLL_SECONDS))
            trained[fold] = future.result()
            # The last ones may still be on their way here, and not every system tells how many there are in a queue.
            for epoch, values in epochs(trained[fold].history):
                tell(fold, epoch, values)
            on_fold(fold, trained[fold])
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


def _start_worker(messages: Any, threads: int, parent: int) -> None:
    global _messages
    _messages = messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    torch.set_num_threads(threads)
    keep_pages()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def _train(job: FoldJob) -> FoldModel:
    return train_fold(job, lambda epoch, values: _messages.put((job.fold, epoch, values)))

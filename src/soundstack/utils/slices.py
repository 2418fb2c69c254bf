"""Work in fixed slices: whatever the number of clips, only a few slices of them are under way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

#: Clips of a slice. What a slice holds fixes the batches of a network, and so a feature's last bits.
SLICE = 32
_AHEAD = 2

Item = TypeVar("Item")
Done = TypeVar("Done")


def in_slices(
    pool: Executor, slices: Iterable[Sequence[Item]], work: Callable[[Item], Done]
) -> Iterator[tuple[Sequence[Item], list[Done]]]:
    """Work on the items of each slice in threads, and yield the slices in order with what was made of their items.

    Two more slices are under way than the one that is yielded: memory stays flat, and threads have work.
    """
    submitted = ((part, [pool.submit(work, item) for item in part]) for part in slices)
    under_way = deque(islice(submitted, _AHEAD))
    while under_way:
        part, futures = under_way.popleft()
        done = [future.result() for future in futures]
        under_way.extend(islice(submitted, 1))
        yield part, done

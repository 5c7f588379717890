"""Many small computations of linear algebra side by side, each on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from prunedeploy import targets
from prunedeploy.core.progress import Counted

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    stage: str,
    progress: Callable[[str], None],
) -> list[Result]:
    """``function`` of every item, in their order; as many at once as this process has cores.

    Factorisations of a few hundred rows lose more to the barriers of torch's own threads than they
    gain by them.
    """

    def alone(item: Item) -> Result:
        with torch.no_grad():  # which holds for one thread
            return function(item)

    results = []
    with _one_thread(), ThreadPoolExecutor(targets.cores()) as pool:
        for number, result in enumerate(pool.map(alone, items)):
            progress(Counted(stage, number + 1, len(items)))
            results.append(result)
    return results


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Runs the work units of a sweep, in this process or several, each with one BLAS thread."""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import active_children, get_context, resource_tracker
from multiprocessing.process import BaseProcess

from lab.core.errors import RunError
from lab.core.processes import Patience, end_with
from lab.core.runs.signals import blocked
from lab.experiments.hmm_risk.cell_work import CellWork, IndependentRows
from lab.experiments.hmm_risk.config import DiscreteConfig, LinearGaussianConfig, Loading, RepresentationName, SizeMap
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.problems.gaussian import KalmanProblem, WindowProblem
from lab.experiments.hmm_risk.problems.modes import ModeProblem
from lab.experiments.hmm_risk.problems.problem import Problem, ProjectedProblem, seeds_of_problem
from lab.experiments.hmm_risk.rows import Row
from lab.experiments.hmm_risk.theory_lines.work import theory_rows
from lab.experiments.hmm_risk.units import Unit

# units that wait for each process: enough that none waits for the next
_HANDED_OUT = 8


def build_problem(cell: Cell, number: int = 0) -> Problem:
    """One problem of a linear-Gaussian cell."""
    assert isinstance(cell.hmm, LinearGaussianConfig), "a discrete HMM has another CellWork"
    seeds = seeds_of_problem(cell.seed, number)
    if cell.hmm.loading is Loading.identity:
        problem: Problem = ModeProblem(cell, cell.hmm, seeds)
    elif cell.representation.name is RepresentationName.kalman_state:
        problem = KalmanProblem(cell, cell.hmm, seeds)
    else:
        problem = WindowProblem(cell, cell.hmm, seeds)
    if cell.representation.size_map is SizeMap.random_projection:
        return ProjectedProblem(problem, seeds)
    return problem


def build_work(cell: Cell, number: int = 0) -> CellWork:
    """The object that does the work of one problem of a cell."""
    if isinstance(cell.hmm, DiscreteConfig):
        # only a discrete HMM needs torch, which takes 2 s to import
        from lab.experiments.hmm_risk.problems.discrete import DiscreteRows  # noqa: PLC0415

        return DiscreteRows(cell, cell.hmm, number)
    if cell.tokens_per_sequence > 1:
        from lab.experiments.hmm_risk.dependent_rows.work import DependentRows  # noqa: PLC0415

        return DependentRows(cell, build_problem(cell, number), number)
    return IndependentRows(cell, build_problem(cell, number), number)


class WorkerState:
    """Runs units of a sweep; keeps what units of the same problem share, until one of another problem comes."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._key: tuple[int, int] | None = None
        self._work: CellWork | None = None

    def run(self, unit: Unit) -> list[Row]:
        """The rows of one unit."""
        key = (unit.cell, unit.problem)
        if self._work is None or key != self._key:
            # the one before is let go first: each holds matrices of its problem's size
            self._work = None
            self._key, self._work = key, build_work(self._cells[unit.cell], unit.problem)
        rows: list[Row] = list(theory_rows(self._work)) if unit.with_theory else []
        return rows + [row for replicate in unit.replicates for row in self._work.measure(replicate)]


def run_all(
    cells: Sequence[Cell], todo: Iterable[Unit], num_workers: int
) -> Generator[tuple[Unit, list[Row]], None, None]:
    """Run the units in `num_workers` processes, on whose number the results do not depend.

    A few units a process are handed out at a time, however many there are.

    Raises:
        RunError: if a worker was killed, was stopped and does not go on, or cannot be started.
    """
    if num_workers <= 1:
        worker = WorkerState(cells)
        for unit in todo:
            yield unit, worker.run(unit)
        return
    with _starting():
        # a process that the pool would start, which lets signals through afterwards
        resource_tracker.ensure_running()
        # spawn, not fork: the progress bar is a thread, and forking a threaded process can hang
        executor = ProcessPoolExecutor(
            num_workers,
            get_context("spawn"),
            initializer=_start_worker,
            initargs=(tuple(cells), os.getpid()),
        )
    others = active_children()
    try:
        rest = iter(todo)
        futures: dict[Future[list[Row]], Unit] = {}
        while True:
            with _starting():
                for unit in islice(rest, _HANDED_OUT * num_workers - len(futures)):
                    futures[executor.submit(_run_in_worker, unit)] = unit
            if not futures:
                return
            for future in _done(futures, others):
                yield futures.pop(future), future.result()
    except BrokenProcessPool as error:
        raise RunError(
            f"a worker was killed, most likely because memory ran out; resume=RUN workers={max(1, num_workers // 2)} "
            "goes on with fewer"
        ) from error
    finally:
        for worker_process in active_children():
            # nobody needs what they are doing: it is done again
            if worker_process not in others:
                worker_process.kill()
        executor.shutdown(wait=True, cancel_futures=True)


def _done(futures: Iterable[Future[list[Row]]], others: Sequence[BaseProcess]) -> Iterable[Future[list[Row]]]:
    """What is done, once anything is.

    Raises:
        RunError: if it is waited for a worker that was stopped.
    """
    patience = Patience()
    while not (done := wait(futures, timeout=patience.seconds, return_when=FIRST_COMPLETED).done):
        stopped = patience.lost(worker.pid for worker in active_children() if worker not in others)
        if stopped is not None:
            raise RunError(f"a worker (process {stopped}) was stopped and does not go on; resume=RUN starts others")
    return done


@contextmanager
def _starting() -> Iterator[None]:
    """Processes that are started meanwhile leave signals to this one.

    Raises:
        RunError: if none can be started.
    """
    try:
        with blocked():
            yield
    except OSError as error:
        raise RunError(
            f"workers cannot be started ({error.strerror}): shared memory, processes or open files are used up; "
            "resume=RUN workers=1 goes on without them"
        ) from error


_worker: WorkerState | None = None


def _start_worker(cells: tuple[Cell, ...], parent: int) -> None:
    global _worker
    _worker = WorkerState(cells)
    # workers hold each other's pipes open: without it they would wait for ever if the main process was killed
    end_with(parent)


def _run_in_worker(unit: Unit) -> list[Row]:
    assert _worker is not None, "the pool starts workers with _start_worker"
    return _worker.run(unit)

"""Processes that share the training loop of `lab bench processes`, and take its steps whenever they are asked to."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import torch

from lab.core.errors import RunError
from lab.core.parallel.config import ParallelConfig, Strategy
from lab.core.parallel.launched import launched
from lab.core.parallel.layout import Layout
from lab.core.parallel.link import Link
from lab.core.parallel.processes import joined, layout
from lab.core.processes import end_with
from lab.core.products import current as products
from lab.experiments.bench.machine import ONE_THREAD
from lab.experiments.bench.train_problem import Training
from lab.experiments.bench.train_setting import TrainSetting
from lab.experiments.distill.loader import Loader

_MODULE = "lab.experiments.bench.process_group"
_HOST = "127.0.0.1"
_SECONDS_TO_END = 30


class ProcessGroup:
    """Some processes with a thread each, connected as those of torchrun; a context, behind which they are gone."""

    def __init__(self, setting: TrainSetting, stage: int, *, size: int, strategy: Strategy = Strategy.none) -> None:
        """Start them; they open model and data while this one goes on.

        Args:
            setting: of the training.
            stage: 1, 2 or 3.
            size: number of processes.
            strategy: how they share the model.
        """
        request = json.dumps({"setting": asdict(setting), "stage": stage, "strategy": strategy.value})
        place = {"MASTER_ADDR": _HOST, "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(size)}
        self._errors: list[IO[str]] = []
        self._processes: list[subprocess.Popen[str]] = []
        for rank in range(size):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
            errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
            self._errors.append(errors)
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", _MODULE, request],
                    env={**os.environ, **ONE_THREAD, **place, **ranks},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            if kind is not None:
                process.kill()
            # they end when they can be asked no more, all of them together
            assert process.stdin is not None, "it has a pipe"
            with suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            process.wait()
            assert process.stdout is not None, "it has one"
            process.stdout.close()
        for errors in self._errors:
            errors.close()

    def ready(self) -> None:
        """Wait until all have opened model and data.

        Raises:
            RunError: if one of them fails.
        """
        for rank in range(len(self._processes)):
            self._answer(rank)

    def losses(self) -> list[float]:
        """Take the steps, and return their losses, the same in all processes.

        Raises:
            RunError: if one of them fails.
        """
        self.begin()
        return self.ended()

    def begin(self) -> None:
        """Begin with the steps, which go on while this process does.

        Raises:
            RunError: if one of the processes has failed.
        """
        for rank, process in enumerate(self._processes):
            assert process.stdin is not None, "it has a pipe"
            try:
                process.stdin.write("go\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise self._failure(rank) from None

    def ended(self) -> list[float]:
        """The losses of the steps that `begin` began.

        Raises:
            RunError: if one of the processes fails.
        """
        answers = [self._answer(rank) for rank in range(len(self._processes))]
        found: list[float] = json.loads(answers[0])
        return found

    def _answer(self, rank: int) -> str:
        pipe = self._processes[rank].stdout
        assert pipe is not None, "it has one"
        line = pipe.readline()
        if not line:
            raise self._failure(rank)
        return line

    def _failure(self, rank: int) -> RunError:
        """What a process that has ended said last."""
        code = self._processes[rank].wait(_SECONDS_TO_END)
        self._errors[rank].seek(0)
        last = self._errors[rank].read().strip().splitlines()[-1:] or [f"ended with code {code}"]
        return RunError(f"process {rank} of {len(self._processes)}: {last[0]}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind((_HOST, 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def _laid_out(strategy: Strategy) -> Iterator[Layout]:
    """Over the processes that were started together."""
    here = launched()
    if here is None:
        yield Layout()
        return
    link = Link(here)
    with joined(link), layout(ParallelConfig(strategy=strategy), torch.device("cpu")) as over_processes:
        yield over_processes
    link.leave()


def main(request: str) -> None:
    """A process: says that it is ready, and answers each line with the losses of the steps."""
    end_with(os.getppid())
    # what a library prints is no answer
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = json.loads(request)
    torch.set_num_threads(1)
    setting = TrainSetting(**asked["setting"])
    with (
        tempfile.TemporaryDirectory() as folder,
        products.using(products.AUTO),
        _laid_out(Strategy(asked["strategy"])) as over_processes,
        Training(setting, asked["stage"], Path(folder), layout=over_processes) as problem,
    ):
        products.settle(problem.teacher, [torch.float32])
        print(json.dumps("ready"), file=answers, flush=True)
        for _ in sys.stdin:
            losses = problem.loop(Loader.inline, is_recorded=False)
            print(json.dumps(losses), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

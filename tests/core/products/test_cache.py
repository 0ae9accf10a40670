"""Tables on disk: a machine measures once, and a run goes on with the table that it began with."""

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import nn

from lab.core.errors import BackendError, ConfigError
from lab.core.products import cache, current
from lab.core.products.choice import (
    CELLS,
    BusyError,
    Cell,
    described,
    only,
    row_class,
)
from lab.core.products.implementations import IMPLEMENTATIONS, ONEDNN, TORCH, Implementation
from lab.core.products.linear import Linear

CPU = torch.device("cpu")


class Measured:
    """A measurement that takes no time and is counted."""

    def __init__(self, implementation: Implementation) -> None:
        self.count = 0
        self._implementation = implementation

    def __call__(self, dtype: torch.dtype) -> dict[Cell, Implementation]:
        self.count += 1
        return only(self._implementation)


def recalled(measured: Measured) -> dict[Cell, Implementation]:
    return dict(cache.recall_or_measure(torch.float32, 1, measured))


needs_onednn = pytest.mark.skipif(ONEDNN.why_not(CPU, torch.float32) is not None, reason="torch has no oneDNN here")


@needs_onednn
def test_a_machine_measures_once(fresh_cache: Path) -> None:
    assert cache.recall(torch.float32, 1) is None
    measured = Measured(ONEDNN)
    assert recalled(measured) == recalled(measured) == only(ONEDNN)
    assert measured.count == 1
    assert cache.recall(torch.float32, 1) == only(ONEDNN)
    # of another dtype or number of threads, nothing is known
    assert cache.recall(torch.bfloat16, 1) is None
    assert cache.recall(torch.float32, 2) is None


@needs_onednn
@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"forward, 1 row": "torch"}',
        "{" + ", ".join(f'"{cell.name}": "other"' for cell in CELLS) + "}",
        "{" + ", ".join(f'"{cell.name}": "native"' for cell in CELLS) + "}",
    ],
)
def test_a_damaged_table_is_measured_again(fresh_cache: Path, content: str) -> None:
    recalled(Measured(ONEDNN))
    (path,) = fresh_cache.glob("*.json")
    path.write_text(content)
    measured = Measured(TORCH)
    assert cache.recall(torch.float32, 1) is None
    assert recalled(measured) == recalled(measured) == only(TORCH)
    assert measured.count == 1


def test_a_table_of_another_processor_or_torch_is_not_used(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recalled(Measured(TORCH))
    for module, name in ((cache, "processor_name"), (cache, "processor_features"), (torch.__config__, "show")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, lambda: "another")
            assert cache.recall(torch.float32, 1) is None
    assert cache.recall(torch.float32, 1) is not None


def test_a_table_that_cannot_be_written_is_measured_by_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    measured = Measured(TORCH)
    assert recalled(measured) == only(TORCH)
    assert measured.count == 1


def test_on_a_busy_machine_torch_computes_and_nothing_is_written(
    fresh_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(dtype: torch.dtype) -> dict[Cell, Implementation]:
        raise BusyError

    assert cache.recall_or_measure(torch.float32, 1, busy) == only(TORCH)
    assert "too busy" in capsys.readouterr().err
    assert cache.recall(torch.float32, 1) is None


def one_of_two(number: int, barrier: "multiprocessing.synchronize.Barrier", answers: "multiprocessing.Queue") -> None:
    measured = Measured((TORCH, ONEDNN)[number])
    barrier.wait()
    table = cache.recall_or_measure(torch.float32, 1, measured)
    answers.put((measured.count, table[CELLS[0]].name))


@needs_onednn
def test_processes_that_start_together_agree(fresh_cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=one_of_two, args=(number, barrier, answers)) for number in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(count for count, _ in found) == [0, 1]
    assert len({name for _, name in found}) == 1


@needs_onednn
def test_only_large_products_are_chosen_for(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(ONEDNN)
    monkeypatch.setattr(current, "recall_or_measure", cache.recall_or_measure)
    monkeypatch.setattr(current, "measured", measured)
    small, large = Linear(16, 16), Linear(512, 512)
    with current.using("torch"):
        assert current.settle(large, [torch.float32]) == {"float32": "torch everywhere"}
    with current.using("auto"):
        assert current.settle(small, [torch.float32]) == {"float32": "torch everywhere"}
        assert measured.count == 0
        assert current.STATE.is_torch
        both = nn.Sequential(small, large)
        for _ in range(2):
            assert current.settle(both, [torch.float32]) == {"float32": described(only(ONEDNN))}
        assert measured.count == 1
        assert not current.STATE.is_torch
        assert large(torch.ones(2, 512)).grad_fn.name() == "ViewBackward0"
        assert small(torch.ones(2, 16)).grad_fn.name() == "AddmmBackward0"
        # nothing is known of another number of threads, nor of another dtype
        assert large.double()(torch.ones(2, 512, dtype=torch.float64)).grad_fn.name() == "AddmmBackward0"
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(before + 1)
            assert large.float()(torch.ones(2, 512)).grad_fn.name() == "AddmmBackward0"
        finally:
            torch.set_num_threads(before)
    assert current.STATE.is_torch


@needs_onednn
def test_a_run_that_goes_on_computes_as_it_began(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(ONEDNN)
    monkeypatch.setattr(current, "recall_or_measure", cache.recall_or_measure)
    monkeypatch.setattr(current, "measured", measured)
    large = Linear(512, 512)
    with current.using("auto"):
        # begun while the machine was too busy for a choice
        assert current.settle(large, [torch.float32], {"float32": "torch everywhere"}) == {
            "float32": "torch everywhere"
        }
        assert measured.count == 0
        for damaged in ({}, {"float32": "mkl"}, {"float32": None}, {"bfloat16": "torch everywhere"}):
            assert current.settle(large, [torch.float32], damaged) == {"float32": described(only(ONEDNN))}
        assert measured.count == 1


@needs_onednn
def test_a_class_of_rows_in_which_torch_is_fastest_keeps_its_graph() -> None:
    table = {cell: ONEDNN if cell.row_class == row_class(100) else TORCH for cell in CELLS}
    with current.using("auto"):
        current.STATE.take(torch.float32, table)
        large = Linear(512, 512)
        names = {rows: large(torch.ones(rows, 512)).grad_fn.name() for rows in (1, 16, 17, 255, 256)}
        with torch.autocast("cpu", torch.bfloat16):
            assert large(torch.ones(100, 512)).grad_fn.name() == "AddmmBackward0"
    assert names == {rows: "ViewBackward0" if rows in (17, 255) else "AddmmBackward0" for rows in names}


@needs_onednn
def test_a_name_asks_for_small_products_too() -> None:
    assert current.settle(Linear(4, 4), [torch.float32]) == {"float32": "torch everywhere"}
    with current.using("onednn"):
        assert current.settle(Linear(4, 4), [torch.float32]) == {"float32": described(only(ONEDNN))}
        assert Linear(4, 4)(torch.ones(2, 4)).grad_fn.name() == "ViewBackward0"
    assert current.STATE.is_torch


def test_what_was_asked_for_and_cannot_run_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="products=mkl: choose from auto, torch, packed, onednn, native"):
        current.refuse_unknown("mkl")
    with pytest.raises(BackendError, match=r"products=onednn cannot run on cpu: .*not float64; use products=auto"):
        current.refuse("onednn", CPU, [torch.float32, torch.float64])
    with pytest.raises(BackendError, match="products=native cannot run on cuda: it needs a CPU"):
        current.refuse("native", torch.device("cuda"), [torch.float32])
    for name in current.NAMES:
        current.refuse_unknown(name)
    current.refuse("auto", torch.device("cuda"), [torch.float16])
    assert set(IMPLEMENTATIONS) < set(current.NAMES)

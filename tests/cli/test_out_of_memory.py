"""Memory that runs out is one line, wherever it does."""

import pytest

from lab.cli.dispatch import one_line_errors


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "an allocation failed"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "torch asked for more"),
        (ImportError("_qhull.so: failed to map segment from shared object"), "while libraries were loaded (_qhull.so"),
        (RuntimeError("can't start new thread"), "no further thread can be started"),
    ],
)
def test_it_is_one_line(error: Exception, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left, one_line_errors():
        raise error
    said = capsys.readouterr().err
    assert (left.value.code, said.count("\n")) == (2, 1)
    assert says in said


def test_another_missing_module_is_a_traceback() -> None:
    with pytest.raises(ImportError), one_line_errors():
        raise ImportError("No module named 'scipy'")

"""A checkpoint that is not as it was written is found, named and left out; one that cannot be written costs nothing."""

import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lab.core.errors import CheckpointError, RunError
from lab.core.train.digests import META, read_meta, write_meta
from lab.core.train.loop import TrainConfig, fit
from lab.core.train.state import checkpoint_path, checkpoints
from reference.toy_training import Rows, Toy

CONFIG = TrainConfig(steps=12, evaluate_every=5, checkpoint_every=4)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) * 9 // 10] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["meta.json", "state.pt", "model.safetensors"])
@pytest.mark.parametrize("damage", [cut, empty, flip_a_bit, Path.unlink])
def test_a_damaged_checkpoint_is_refused_by_its_file(tmp_path: Path, damage: Callable[[Path], None], name: str) -> None:
    Toy().fit(tmp_path, CONFIG)
    (path,) = checkpoints(tmp_path)
    damage(path / name)
    with pytest.raises(CheckpointError, match=rf"step_00000012/{name} (is|cannot be) .*; remove the folder to go on"):
        Toy().state.load_newest(tmp_path)


def test_without_the_newest_checkpoint_training_goes_on_from_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(steps=20, evaluate_every=5, checkpoint_every=7)
    whole, again = Toy(), Toy()

    def end(toy: Toy) -> None:
        # lowest after ten steps, so that this checkpoint is kept too
        log, losses = toy.rows.append, {10: 1.0}
        validate = lambda: losses.get(toy.state.step, 2.0)  # noqa: E731
        fit(toy.state, toy.step, config, name="stage_1", folder=tmp_path, validate=validate, log=log)

    end(whole)
    flip_a_bit(checkpoint_path(tmp_path, 20) / "state.pt")
    assert again.state.load_newest(tmp_path)
    assert again.state.step == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lab: going on from ")
    assert "step_00000020/state.pt is damaged" in line
    end(again)
    for name, weight in whole.weights().items():
        assert again.weights()[name].equal(weight)


def test_weights_that_are_no_numbers_are_not_loaded(tmp_path: Path) -> None:
    toy = Toy()
    toy.fit(tmp_path, CONFIG)
    with torch.no_grad():
        toy.model.bias[1] = math.nan
    toy.state.step += 1
    toy.state.save(tmp_path)
    with pytest.raises(CheckpointError, match="bias has entries that are not finite"):
        Toy().state.load_newest(tmp_path)


def test_a_checkpoint_that_holds_code_is_not_run(tmp_path: Path) -> None:
    Toy().fit(tmp_path, CONFIG)
    (path,) = checkpoints(tmp_path)
    torch.save({"optimizer": Rows(), "data": {}, "random": {}}, path / "state.pt")
    meta = read_meta(path)
    (path / META).unlink()
    write_meta(path, {key: value for key, value in meta.items() if key != "files"})
    with pytest.raises(CheckpointError, match="damaged or of another training"):
        Toy().state.load_newest(tmp_path)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Files cannot grow beyond this, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("num_bytes", [50, 200, 2000])
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_last_one_stays(tmp_path: Path, num_bytes: int) -> None:
    toy = Toy()
    toy.fit(tmp_path, CONFIG)
    toy.state.step += 1
    with (
        largest_file(num_bytes),
        pytest.raises(RunError, match=r"step_00000013 cannot be written: .*ulimit -f") as said,
    ):
        toy.state.save(tmp_path)
    assert "\n" not in str(said.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000012"]
    assert Toy().state.load_newest(tmp_path)

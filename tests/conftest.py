"""What all tests share: one BLAS thread, reproducible properties, an output folder, the command, a small teacher."""

import atexit
import gc
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

# a disk takes milliseconds for it, and no test is about a power cut
os.fsync = lambda descriptor: None

# before numpy or torch is imported: with more threads a busy machine is many times slower
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"
# a slow machine is not to add lines to what tests read
os.environ["LAB_PROGRESS_EVERY"] = "1e9"
import drawn  # noqa: E402 - before processes that have to draw the same are started
import shape_checks  # noqa: E402 - loads numpy
import warm_commands  # noqa: E402
from warm_commands import Finished, forked_by  # noqa: E402

# modules and tests are loaded, which leaves no garbage worth a search
gc.disable()

# before the package is imported
shape_checks.install("lab.core", "lab.experiments")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Load what tests need, unless this process only hands them out to others, which start seconds earlier then."""
    if session.config.getoption("dist", "no") != "no" and not hasattr(session.config, "workerinput"):
        return
    import hypothesis  # noqa: PLC0415

    import hydra_once  # noqa: PLC0415
    import rewritten_once  # noqa: PLC0415

    # a red build can be repeated; a shared machine makes single examples slow
    hypothesis.settings.register_profile("lab", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("lab")
    hydra_once.install()
    if hasattr(session.config, "workerinput"):
        rewritten_once.rewrite(session.config)
        # last: a second without it, as everything that is loaded would be taken apart
        atexit.register(_end_at_once, os.getpid())


def _end_at_once(worker: int) -> None:
    if os.getpid() == worker:
        os._exit(0)


def pytest_collection_finish() -> None:
    """What is loaded by now stays: collections of garbage need not walk through it, and are rare."""
    # pytest hangs its handlers on each logger that passes no records on, thrice a test: torch has more than forty
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("torch.") and isinstance(logger, logging.Logger):
            logger.propagate = True
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    gc.enable()


def pytest_sessionfinish() -> None:
    """What is garbage by now warns once: pytest is about to walk through all objects five times to find it."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what draws the same cases again."""
    terminalreporter.write_line("LAB_TEST_CASES=all" if drawn.ALL else f"LAB_TEST_SEED={drawn.SEED}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Shape annotations are checked anew in each test, but not in one that gives wrong shapes on purpose."""
    shape_checks.start_test(is_on=item.get_closest_marker("wrong_shapes") is None)


@pytest.fixture(autouse=True)
def products_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are torch's unless a test says otherwise: nothing is measured, nor read of what was measured here."""
    current = sys.modules.get("lab.core.products.current")
    if current is not None:
        monkeypatch.setattr(current, "recall_or_measure", lambda *arguments: current.only(current.TORCH))


COMMAND = (sys.executable, "-c", "from lab.cli.start import main; main()")


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of commands in this test; not made yet."""
    folder = tmp_path / "outputs"
    monkeypatch.setenv("LAB_OUTPUTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def lab_command() -> tuple[str, ...]:
    """The words in front of the arguments, for a test that starts the process itself."""
    return COMMAND


@pytest.fixture(scope="session")
def command_server() -> "Iterator[subprocess.Popen[str]]":
    """A process that has everything loaded; see tests/command_server.py."""
    with warm_commands.command_server() as server:
        yield server


@pytest.fixture(scope="session")
def forked_lab(
    tmp_path_factory: pytest.TempPathFactory, command_server: "subprocess.Popen[str]"
) -> Callable[..., Finished]:
    """Run the command in a forked process, in the folder `cwd`."""
    return forked_by(command_server, tmp_path_factory.mktemp("streams"))


@pytest.fixture
def lab(outputs: Path, tmp_path: Path, forked_lab: Callable[..., Finished]) -> Callable[..., Finished]:
    """Run the command in a forked process, in an empty folder unless told otherwise."""

    def run(*arguments: str, cwd: Path = tmp_path, env: Mapping[str, str] | None = None) -> Finished:
        return forked_lab(*arguments, cwd=cwd, env=env)

    return run


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model of two layers with random weights, which reads the task that ships."""
    # not before it is asked for: torch takes seconds to load
    import torch  # noqa: PLC0415

    from lab.core.mixers.rotary import RotaryConfig  # noqa: PLC0415
    from lab.core.models.config import DecoderConfig, PixelShuffle, VisionConfig  # noqa: PLC0415
    from lab.core.models.hovle.config import HovleConfig  # noqa: PLC0415
    from lab.experiments.distill.tasks.picture_questions import picture_questions_tokenizer  # noqa: PLC0415
    from lab.experiments.distill.teacher import new_teacher, write_teacher  # noqa: PLC0415

    decoder = DecoderConfig(
        num_layers=1,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        vocab_size=96,
        rms_norm_eps=1e-5,
        rotary=RotaryConfig(theta=1e4, max_length=1024),
    )
    vision = VisionConfig(
        image_size=28,
        patch_size=7,
        num_channels=3,
        shuffle_factor=2,
        pixel_shuffle=PixelShuffle.pre,
        image_token_id=4,
    )
    tokenizer = picture_questions_tokenizer("")
    model = new_teacher(
        HovleConfig(vision=vision, embedding=decoder, llm=decoder), tokenizer, device=torch.device("cpu"), seed=0
    )
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    write_teacher(model, tokenizer, folder)
    return folder

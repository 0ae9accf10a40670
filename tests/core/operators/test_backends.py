import sys
from collections.abc import Iterator

import pytest
import torch

from lab.core.errors import BackendError
from lab.core.operators import backends
from lab.core.operators.backends import Backend, operators, report, resolve

CPU = torch.device("cpu")
CUDA = torch.device("cuda:0")  # a name: nothing is allocated on it
PORTABLE = ("chunked", "portable")
ELSEWHERE = [name for name in operators() if name not in ("ssd", "delta_rule")]
WITH_KERNELS = [name for name, backends in operators().items() if backends[0].name not in PORTABLE]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The distributions and modules that seem to be installed; a test adds to them."""
    names: set[str] = set()
    backends.missing_package.cache_clear()
    backends.has_module.cache_clear()
    monkeypatch.setattr(backends, "installed_version", lambda name: "1.0" if name in names else None)
    monkeypatch.setattr(backends, "find_spec", lambda name: object() if name in names else None)
    yield names
    backends.missing_package.cache_clear()
    backends.has_module.cache_clear()


def kernels(installed: set[str]) -> None:
    installed.update({"mamba-ssm", "triton", "einops", "causal-conv1d", "causal_conv1d_cuda", "fla-core"})


@pytest.mark.parametrize("operator", operators())
def test_auto_takes_an_implementation_that_runs_everywhere_on_a_cpu(operator: str) -> None:
    assert resolve(operator, "auto", CPU).name in PORTABLE


@pytest.mark.parametrize("operator", WITH_KERNELS)
def test_auto_takes_the_kernels_on_a_gpu_where_they_are_installed(operator: str, installed: set[str]) -> None:
    assert resolve(operator, "auto", CUDA).name in PORTABLE
    backends.missing_package.cache_clear()
    backends.has_module.cache_clear()
    kernels(installed)
    assert resolve(operator, "auto", CUDA, torch.bfloat16).name in ("mamba_ssm", "causal_conv1d", "fla")


@pytest.mark.parametrize("operator", WITH_KERNELS)
def test_auto_does_not_give_float64_to_kernels_that_compute_in_float32(operator: str, installed: set[str]) -> None:
    kernels(installed)
    assert resolve(operator, "auto", CUDA, torch.float64).name in PORTABLE
    kernel = operators()[operator][0].name
    with pytest.raises(BackendError, match="float32, not float64; cast"):
        resolve(operator, kernel, CUDA, torch.float64)


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_auto_is_never_the_reference(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    first_is_reference = tuple(reversed(operators()["ssd"]))
    monkeypatch.setitem(operators(), "ssd", first_is_reference)
    assert first_is_reference[0].name == "reference"
    assert resolve("ssd", "auto", device).name == "chunked"
    assert resolve("ssd", "reference", device).name == "reference"


@pytest.mark.parametrize(("operator", "name"), [("ssd", "mamba_ssm"), ("causal_conv", "causal_conv1d")])
def test_an_explicit_choice_that_cannot_run_is_an_error_with_the_cure(operator: str, name: str) -> None:
    with pytest.raises(BackendError) as caught:
        resolve(operator, name, CPU)
    message = str(caught.value)
    for part in (f"{operator} backend={name!r} cannot run on cpu", "needs a CUDA device", "use one of auto, "):
        assert part in message
    assert "\n" not in message
    assert name not in message.partition("use one of")[2]


def test_amissing_package_is_named_and_the_command_that_adds_it_is_pointed_to(installed: set[str]) -> None:
    installed.add("triton")
    with pytest.raises(BackendError, match=r"mamba-ssm and einops are not installed; `lab doctor`"):
        resolve("ssd", "mamba_ssm", CUDA)


def test_a_convolution_package_without_its_kernels_is_not_taken(installed: set[str]) -> None:
    installed.add("causal-conv1d")
    assert resolve("causal_conv", "auto", CUDA).name == "portable"
    with pytest.raises(BackendError, match="without its CUDA kernels"):
        resolve("causal_conv", "causal_conv1d", CUDA)


def test_unknown_names_are_answered_with_those_that_exist() -> None:
    with pytest.raises(BackendError, match=r"backend='triton' does not exist; choose from auto, mamba_ssm, chunked"):
        resolve("ssd", "triton", CPU)
    with pytest.raises(BackendError, match=r"operator='attention' .*ssd_step"):
        resolve("attention", "auto", CPU)


def test_a_backend_that_was_resolved_before_is_taken_as_it_is() -> None:
    chosen = resolve("ssd_step", "reference", CPU)
    assert resolve("ssd_step", chosen, CPU) is chosen
    with pytest.raises(BackendError, match="needs a CUDA device"):
        resolve("ssd_step", operators()["ssd_step"][0], CPU)


@pytest.mark.parametrize(
    "backend",
    [backend for name in ELSEWHERE for backend in operators()[name] if backend.why_not(CPU, None) is None],
    ids=lambda backend: backend.name,
)
def test_what_can_run_here_can_be_loaded(backend: Backend) -> None:
    assert callable(backend.load())


def test_the_report_names_what_auto_takes_and_why_it_passes_over_the_rest() -> None:
    choices = {choice.operator: choice for choice in report(CPU)}
    assert set(choices) == set(operators())
    assert choices["ssd"].chosen == "chunked"
    ((name, reason),) = choices["ssd"].rejected
    assert name == "mamba_ssm"
    assert "CUDA device" in reason


def test_asking_imports_no_kernel_package() -> None:
    before = set(sys.modules)
    report(CPU)
    report(CUDA)
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not loaded & {"fla", "mamba_ssm", "causal_conv1d", "causal_conv1d_cuda"}

"""Peak memory of one candidate of `lab bench ssd`, in a separate process, unaffected by earlier candidates."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from lab.core.errors import RunError
from lab.core.ssd import ssd
from lab.experiments.bench.accuracy import Mode
from lab.experiments.bench.harness import Missing
from lab.experiments.bench.memory import ask_process, peak_of, size_of
from lab.experiments.bench.ssd_attention import ATTENTION, Attention
from lab.experiments.bench.ssd_peers import PEERS
from lab.experiments.bench.ssd_problem import SsdProblem, SsdSetting

OURS = "lab ssd"

# size of the warm-up call, which loads code and starts threads
_WARM_UP_TOKENS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """Peak memory of one call.

    Attributes:
        candidate: its name.
        num_tokens: of the sequence.
        mode: what the call computes.
        arguments_bytes: of the inputs and of the outputs, gradients included.
        above_bytes: all other memory at the highest point.
        failure: why it could not be measured; empty if it was.
    """

    candidate: str
    num_tokens: int
    mode: Mode
    arguments_bytes: int = 0
    above_bytes: int = 0
    failure: str = ""

    @property
    def share(self) -> float | None:
        """Memory above inputs and outputs as a fraction of theirs; None if it could not be measured."""
        return None if self.failure else self.above_bytes / self.arguments_bytes


def peak_memory(candidate: str, setting: SsdSetting, chunk_size: int | None, mode: Mode) -> Peak:
    """Start a process that calls the candidate once, and read its report."""
    sizes = asdict(setting) | {"dtype": str(setting.dtype).removeprefix("torch.")}
    request = {"candidate": candidate, "setting": sizes, "chunk_size": chunk_size, "mode": mode}
    peak = Peak(candidate=candidate, num_tokens=setting.num_tokens, mode=mode)
    try:
        arguments_bytes, above_bytes = ask_process("lab.experiments.bench.ssd_memory", request)
    except RunError as error:
        return replace(peak, failure=str(error))
    return replace(peak, arguments_bytes=arguments_bytes, above_bytes=above_bytes)


def main(request: str) -> None:
    """The process: prints the bytes of inputs and outputs, and the bytes above them."""
    asked = json.loads(request)
    sizes, mode = asked["setting"], Mode(asked["mode"])
    setting = SsdSetting(**(sizes | {"dtype": getattr(torch, sizes["dtype"])}))
    small = replace(setting, num_tokens=min(setting.num_tokens, _WARM_UP_TOKENS))
    _call(asked["candidate"], SsdProblem(small), asked["chunk_size"], mode)()
    problem = SsdProblem(setting)
    call = _call(asked["candidate"], problem, asked["chunk_size"], mode)
    arguments = [*problem.inputs, *([problem.output_gradient] if mode is Mode.backward else [])]
    outputs, peak_bytes = peak_of(call, setting.device)
    output_bytes = size_of(outputs)
    print(json.dumps([size_of(arguments) + output_bytes, peak_bytes - output_bytes]))


def _call(candidate: str, problem: SsdProblem, chunk_size: int | None, mode: Mode) -> Callable[[], Sequence[Tensor]]:
    if candidate == ATTENTION:
        return Attention(problem).call(mode)
    if candidate == OURS:
        return problem.call(mode, lambda inputs, size: ssd(*inputs, chunk_size=size).y, chunk_size)
    peer = PEERS[candidate]()
    assert not isinstance(peer, Missing), "only what is installed is asked for"
    return problem.call(mode, peer.operator, chunk_size)


if __name__ == "__main__":
    main(sys.argv[1])

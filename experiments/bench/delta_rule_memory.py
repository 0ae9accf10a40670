"""Peak memory of our gated delta rule, in a separate process, unaffected by memory left from earlier calls."""

import json
import sys
from dataclasses import asdict, replace

import torch

from lab.core.delta_rule import gated_delta_rule
from lab.core.errors import RunError
from lab.experiments.bench.accuracy import Mode
from lab.experiments.bench.delta_rule_problem import DeltaRuleProblem, DeltaRuleSetting
from lab.experiments.bench.memory import ask_process, peak_of, size_of
from lab.experiments.bench.ssd_memory import Peak

OURS = "lab gated_delta_rule"

# size of the warm-up call, which loads code and starts threads
_WARM_UP_TOKENS = 256


def peak_memory(setting: DeltaRuleSetting, mode: Mode) -> Peak:
    """Start a process that calls the operator once, and read its report."""
    sizes = asdict(setting) | {"dtype": str(setting.dtype).removeprefix("torch.")}
    peak = Peak(candidate=OURS, num_tokens=setting.num_tokens, mode=mode)
    try:
        arguments_bytes, above_bytes = ask_process(
            "lab.experiments.bench.delta_rule_memory", {"setting": sizes, "mode": mode}
        )
    except RunError as error:
        return replace(peak, failure=str(error))
    return replace(peak, arguments_bytes=arguments_bytes, above_bytes=above_bytes)


def main(request: str) -> None:
    """The process: prints the bytes of inputs and outputs, and the bytes above them."""
    asked = json.loads(request)
    sizes, mode = asked["setting"], Mode(asked["mode"])
    setting = DeltaRuleSetting(**(sizes | {"dtype": getattr(torch, sizes["dtype"])}))
    small = replace(setting, num_tokens=min(setting.num_tokens, _WARM_UP_TOKENS))
    for problem in (DeltaRuleProblem(small), DeltaRuleProblem(setting)):
        call = problem.call(mode, lambda inputs: gated_delta_rule(*inputs, scale=setting.scale).y)
        arguments = [*problem.inputs, *([problem.output_gradient] if mode is Mode.backward else [])]
        outputs, peak_bytes = peak_of(call, setting.device)
    output_bytes = size_of(outputs)
    print(json.dumps([size_of(arguments) + output_bytes, peak_bytes - output_bytes]))


if __name__ == "__main__":
    main(sys.argv[1])

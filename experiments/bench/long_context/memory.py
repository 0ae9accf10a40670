"""Memory of a model with a cache: what its tensors take, and what a process that decodes with it holds."""

import gc
import json
import sys
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from lab.core.errors import RunError
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.decoding_state import DecodingState
from lab.core.models.steps import Steps
from lab.experiments.bench.long_context.models import Kind, random_models, states_of
from lab.experiments.bench.long_context.setting import Setting
from lab.experiments.bench.memory import ask_process, peak_of, resident_bytes


def held_bytes(model: LanguageModel, state: DecodingState) -> int:
    """Bytes of the weights, each counted once, and of the state."""
    return sum(parameter.nbytes for parameter in model.parameters()) + state.num_bytes


def resident(options: Mapping[str, str], kind: Kind, *, quick: bool) -> dict[int, int | None]:
    """For each length, what a process holds above one that has imported everything; None where it does not fit.

    A failure leaves all of them out.
    """
    try:
        found = ask_process(__name__, {"options": dict(options), "kind": kind, "quick": quick})
    except RunError:
        return {}
    return {int(length): num_bytes for length, num_bytes in found.items()}


def main(request: str) -> None:
    """The process: prints the peak of a step at each length."""
    asked = json.loads(request)
    setting, kind = Setting.of(asked["options"], quick=asked["quick"]), Kind(asked["kind"])
    torch.set_grad_enabled(False)
    # code and threads
    _step(*_small(kind))
    print(json.dumps(_measured(setting, kind)))


def _measured(setting: Setting, kind: Kind) -> dict[int, int | None]:
    started = resident_bytes()
    model = setting.models([kind], is_lean=False)[kind]
    held = sum(parameter.nbytes for parameter in model.parameters())
    found: dict[int, int | None] = {}
    for length in setting.lengths:
        found[length] = None
        if setting.fits(length, kind, held=held):
            state = states_of({kind: model}, length)[kind]
            before = resident_bytes()
            _, above = peak_of(partial(_step, model, state), "cpu")
            found[length] = before - started + above
            del state
            gc.collect()
    return found


def _small(kind: Kind) -> tuple[LanguageModel, DecodingState]:
    tiny = Setting.of({}, quick=True)
    models = random_models(tiny.config, tiny.dtype, [kind])
    return models[kind], states_of(models, 4)[kind]


def _step(model: LanguageModel, state: DecodingState) -> list[Tensor]:
    return [Steps(model, state).logits(Inputs(tokens=torch.zeros(1, 1, dtype=torch.int64)))]


if __name__ == "__main__":
    main(sys.argv[1])

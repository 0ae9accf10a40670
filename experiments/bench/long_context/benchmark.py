"""`lab bench long-context`: the next token of teacher, hybrid and linear student after 1K to 128K tokens, and memory.

The paper's figure 1 c and d (arXiv 2502.13145), beside the paper's way of decoding a teacher and beside a teacher that
is decoded as well as its students: what it gains over the first is not the linear layers' alone. A step must read all
weights and its states once; what takes longer than 1.3 times that is named.
"""

from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch

from lab.core.products import current as products
from lab.experiments.bench.findings import Conclusion, Finding
from lab.experiments.bench.harness import Case, Row
from lab.experiments.bench.long_context import paper
from lab.experiments.bench.long_context.figures import draw
from lab.experiments.bench.long_context.memory import resident
from lab.experiments.bench.long_context.models import Kind
from lab.experiments.bench.long_context.setting import Setting, in_words
from lab.experiments.bench.long_context.steps import Sizes, step_case, streaming_name
from lab.experiments.bench.peak import measure_peak

DISTRIBUTIONS = ("numpy", "torch")

# a step over reading weights and states once; measured ratios of times over those of the byte model, at this length
_OVER_STREAMING, _OF_BYTE_MODEL, _HEADLINE = 1.3, 0.85, 103 * 1024
_STUDENTS = (Kind.hybrid, Kind.linear)


@dataclass(slots=True, kw_only=True)
class Measured:
    """What was measured at one length.

    Attributes:
        num_tokens: in the caches.
        num_layers: of the models.
        is_whole: whether these are all layers.
        sizes: bytes of each model.
        medians_s: of each candidate that was timed.
        resident: bytes that a process with one model holds; only for whole models.
    """

    num_tokens: int
    num_layers: int
    is_whole: bool
    sizes: dict[Kind, Sizes]
    medians_s: dict[str, float] = field(default_factory=dict)
    resident: dict[Kind, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The length in words, with the number of layers where these are not all."""
        return f"{in_words(self.num_tokens)} tokens" + ("" if self.is_whole else f", {self.num_layers} layers")


def cases(*, quick: bool, options: Mapping[str, str]) -> Generator[Case, list[Row], Conclusion]:
    """Yield cases one by one, receive the rows of each, and conclude."""
    setting = Setting.of(options, quick=quick)
    # before anything else takes memory
    held = {kind: resident(options, kind, quick=quick) for kind in Kind}
    peak = measure_peak(quick=quick)
    measured: list[Measured] = []
    left_out: list[Finding] = []
    with products.using(products.AUTO), torch.no_grad():
        fewer: list[tuple[Setting, int]] = []
        models = setting.models()
        weights = setting.weight_bytes()
        for length in setting.lengths:
            kinds = [kind for kind in Kind if setting.fits(length, kind, held=weights)]
            if Kind.teacher not in kinds:
                left_out.append(_left_out(setting, length))
                fewer.append((setting, length))
            if Kind.linear not in kinds:
                continue
            chosen = {kind: models[kind] for kind in kinds}
            case, sizes = step_case(setting, chosen, length, peak)
            found = Measured(num_tokens=length, num_layers=setting.num_layers, is_whole=True, sizes=sizes)
            found.resident = {kind: size for kind in kinds if (size := held[kind].get(length)) is not None}
            measured.append(found)
            found.medians_s = _medians((yield case))
            del case, chosen
        del models
        for _, length in fewer:
            shallow = setting.with_fewer_layers(length)
            if shallow is None:
                continue
            case, sizes = step_case(shallow, shallow.models(), length, peak)
            found = Measured(num_tokens=length, num_layers=shallow.num_layers, is_whole=False, sizes=sizes)
            measured.append(found)
            found.medians_s = _medians((yield case))
            del case
    findings = [*left_out, *(finding for found in measured for finding in _findings(found))]
    if quick:
        findings = [replace(finding, at_least=None, at_most=None) for finding in findings]
    facts: dict[str, Any] = {
        "setting": {name: value for name, value in asdict(setting).items() if name != "config"},
        "lengths": [asdict(found) for found in measured],
    }
    return Conclusion(findings=findings, facts=facts, peak=peak, draw=partial(draw, setting, measured))


def _left_out(setting: Setting, length: int) -> Finding:
    needed = setting.needed(length, Kind.teacher) / 2**30
    note = f"not measured: needs about {needed:.1f} GiB, more than is free; with fewer layers below"
    return Finding(name=f"teacher of {setting.num_layers} layers, {in_words(length)} tokens", value=None, note=note)


def _medians(rows: list[Row]) -> dict[str, float]:
    return {row.candidate: row.median_s for row in rows if row.median_s is not None}


def _findings(found: Measured) -> Generator[Finding]:
    times = found.medians_s
    for kind in found.sizes:
        if str(kind) in times and streaming_name(kind) in times:
            yield Finding(
                name=f"step over streaming, {kind}, {found.name}",
                value=times[kind] / times[streaming_name(kind)],
                at_most=_OVER_STREAMING,
            )
    if Kind.teacher not in found.sizes:
        return
    for kind in _STUDENTS:
        model = found.sizes[Kind.teacher].least / found.sizes[kind].least
        if Kind.teacher in times and kind in times:
            is_judged = found.num_tokens == _HEADLINE
            yield Finding(
                name=f"teacher over {kind}, {found.name}",
                value=times[Kind.teacher] / times[kind],
                at_least=_OF_BYTE_MODEL * model if is_judged else None,
                note=f"the byte model: {model:.3g}",
            )
        if paper.NAME in times and kind in times:
            yield Finding(name=f"{paper.NAME} over {kind}, {found.name}", value=times[paper.NAME] / times[kind])
        held, theirs = found.sizes[kind].held, found.sizes[Kind.teacher]
        note = f"{held / 2**30:.3g} of {theirs.held / 2**30:.3g} GiB"
        if theirs.paper is not None:
            note += (
                f"; {1 - held / theirs.paper:.1%} of what the released code would hold, {theirs.paper / 2**30:.3g} GiB"
            )
        yield Finding(name=f"memory saved, {kind}, {found.name}", value=1 - held / theirs.held, note=note)

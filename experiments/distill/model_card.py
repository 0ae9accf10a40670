"""The model card of an exported student: its teacher, how it was trained and what was measured."""

from collections.abc import Sequence
from pathlib import Path

from lab.core.data.picture_format import Fit
from lab.core.data.prompt_format import IMAGE_CONTEXT, IMAGE_END, IMAGE_START
from lab.core.errors import RunError
from lab.core.models.config import Vision
from lab.core.models.spec import family_of
from lab.core.models.vision_language_config import VisionEncoderConfig
from lab.core.stock.layout import StockLayout
from lab.core.stock.verify import Agreement
from lab.experiments.distill.earlier_stages import trained
from lab.experiments.distill.recorded import load
from lab.experiments.distill.report import accuracies, recovered
from lab.experiments.distill.rows import Row
from lab.experiments.distill.selector import StudentSelector
from lab.experiments.distill.sources import RecordedRun
from lab.experiments.distill.stage_graph import StageNode
from lab.experiments.distill.summary import summaries

_FRONT = """---
library_name: transformers
pipeline_tag: {task}
tags: [{mixer}, linear-attention, distillation]
# license: for the owner of the teacher and the data to say
---
"""


def model_card(
    name: str, layout: StockLayout, run: RecordedRun, node: StageNode, selector: StudentSelector, agreement: Agreement
) -> str:
    """README.md of a student.

    Args:
        name: of its folder.
        layout: how it is written.
        run: in which it was trained.
        node: after which stage.
        selector: which of the run's students.
        agreement: of transformers with the student.
    """
    student = layout.stack.model
    config, options = run.config, layout.stack.converted[0].options
    changed = ", ".join(f"{key}={value}" for key, value in sorted(options.changed().items()))
    teacher = "random weights" if config.teacher.path is None else Path(config.teacher.path).name
    num_softmax = len(layout.stack.softmax)
    numbers = sum(parameter.numel() for parameter in student.parameters())
    lines = [
        _FRONT.format(task="text-generation" if layout.vision is None else "image-text-to-text", mixer=options.kind),
        f"# {name}",
        "",
        f"A {family_of(student.config).name} whose attention was distilled into {options.kind} in "
        f"{len(layout.stack.converted)} of {len(layout.stack.layers)} layers"
        + (f"; {num_softmax} kept their softmax attention." if num_softmax else "."),
        "",
        f"- architecture: `{layout.name}`, chosen because {layout.architecture.why}",
        f"- teacher: `{teacher}` ({family_of(student.config).name}, {numbers:,} parameters in the student)",
        f"- mixer: `{options.kind}`" + (f" with {changed}" if changed else " as mmMamba has it (arXiv 2502.13145)"),
        f"- data: `{config.data.source.kind}`",
        f"- checked: logits of transformers within {agreement.relative_error:.1e} of the student's, relative to the "
        f"largest one, in float32; {agreement.num_tokens} greedy tokens through its cache are equal",
        "- license: not stated here. It follows from those of the teacher and of the data.",
        "",
        "## Training",
        "",
        *training(run, node),
        "",
        "## Measured",
        "",
        *_measured(run, node, selector),
        "",
        "## Use",
        "",
        *_use(layout),
    ]
    return "\n".join(lines).rstrip() + "\n"


def training(run: RecordedRun, node: StageNode) -> list[str]:
    """A table of the stages of a student, also of those in runs that it went on from, and sentences about these.

    Args:
        run: of the student.
        node: its last stage.
    """
    path, sentences = trained(run, node)
    lines = ["| stage | steps | batch | learning rate |", "| --- | --- | --- | --- |"]
    for each in path:
        recipe = each.recipe
        assert recipe is not None, "it was trained"
        batch = recipe.batch_size * recipe.accumulation
        lines.append(f"| {each.stage} | {recipe.steps} | {batch} | {recipe.learning_rate:g} |")
    if not path:
        return ["None: the layers are as they were initialised from the teacher's attention."]
    return [*lines, *(["", *sentences] if sentences else [])]


def _measured(run: RecordedRun, node: StageNode, selector: StudentSelector) -> list[str]:
    """What the run's table says of the student after its stage."""
    try:
        rows = load(run.folder)
    except RunError:
        return ["Nothing: the run was not finished."]
    mine = _rows_of(rows, selector)
    found = [summary for summary in summaries(mine) if summary.stage == node.stage]
    if not found:
        return ["Nothing after this stage."]
    baselines = accuracies(rows)
    lines = ["On held-out samples of the data above:", "", "| | |", "| --- | --- |"]
    accuracy = found[0].mean("accuracy")
    if accuracy is not None:
        lines.append(f"| right answers | {100 * accuracy:.1f} % |")
        lines += [f"| right answers, {name} | {100 * value:.1f} % |" for name, value in baselines.items()]
        share = recovered(accuracy, baselines)
        if share is not None:
            lines.append(f"| recovered of the teacher's accuracy above chance | {100 * share:.1f} % |")
    for quantity, words in (
        ("kl_per_token", "divergence from the teacher, nats a token"),
        ("kl_per_answer_token", "divergence from the teacher, nats an answer token"),
    ):
        value = found[0].mean(quantity)  # type: ignore[arg-type]
        if value is not None:
            lines.append(f"| {words} | {value:.4g} |")
    return lines


def _rows_of(rows: Sequence[Row], selector: StudentSelector) -> list[Row]:
    return [
        row
        for row in rows
        if row["kind"] == "result"
        and (selector.variant is None or row.get("student", selector.variant) == selector.variant)
        and row.get("replicate", selector.replicate) == selector.replicate
    ]


def _use(layout: StockLayout) -> list[str]:
    kind = "AutoModelForCausalLM" if layout.vision is None else "AutoModelForImageTextToText"
    vision = layout.stack.model.config.vision
    return [
        "```python",
        f"from transformers import {kind}, AutoTokenizer",
        "",
        f'model = {kind}.from_pretrained("FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        "```",
        *(() if vision is None else ("", how_to_show_pictures(vision))),
    ]


def how_to_show_pictures(vision: Vision) -> str:
    """What a picture is to the model: tiles, and tokens in the text."""
    start, token, end, is_cut = IMAGE_START, f"`{IMAGE_CONTEXT}`", IMAGE_END, True
    if isinstance(vision, VisionEncoderConfig):
        start, token, end = vision.start, f"tokens with the id {vision.image_token_id}", vision.end
        is_cut = vision.pictures.fit is Fit.tiles
    tiles = "cut into tiles as InternVL does it, and a smaller copy of the whole" if is_cut else "one tile"
    around = [f"`{mark}`" if mark else "" for mark in (start, end)]
    written = ", ".join(filter(None, (around[0], f"{vision.tokens_per_tile} {token} for each tile", around[1])))
    return (
        f"A picture is {tiles}, of {vision.image_size} x {vision.image_size} pixels; `AutoImageProcessor` of the "
        f"folder gives it as `pixel_values`. In the text it is {written}."
    )

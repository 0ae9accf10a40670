"""Local tasks for lm-evaluation-harness, one of each kind that it has: multiple choice, text, answers."""

import json
from collections.abc import Sequence
from pathlib import Path

KINDS = {
    "choices": [
        "output_type: multiple_choice",
        'doc_to_text: "{{question}}"',
        "doc_to_choice: options",
        "doc_to_target: gold",
        "metric_list: [{metric: acc}]",
    ],
    "texts": [
        "output_type: loglikelihood_rolling",
        'doc_to_text: ""',
        'doc_to_target: "{{text}}"',
        "metric_list: [{metric: bits_per_byte}]",
    ],
    "answers": [
        "output_type: generate_until",
        'doc_to_text: "{{question}}"',
        'doc_to_target: "red"',
        "generation_kwargs: {until: [boot], max_gen_toks: 5, do_sample: false}",
        "metric_list: [{metric: exact_match}]",
    ],
}


def write_tasks(folder: Path, questions: Sequence[str], options: Sequence[str], text: str) -> Path:
    """Write the tasks into a folder, which `TaskManager(include_path=…)` takes; where it is."""
    rows = [{"question": question, "options": list(options), "gold": 1, "text": text} for question in questions]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = f"dataset_kwargs: {{data_files: {{test: {folder / 'rows.jsonl'}}}}}"
    for name, lines in KINDS.items():
        common = [f"task: {name}", "dataset_path: json", files, "test_split: test"]
        (folder / f"{name}.yaml").write_text("\n".join([*common, *lines]) + "\n")
    return folder

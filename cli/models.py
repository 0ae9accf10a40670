"""`lab export` and `lab generate`: students as folders and files, and text from models.

Nothing numeric is imported here, so that `lab --help` answers at once.
"""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from lab.cli.help import MODELS
from lab.core.ranges import LARGEST_COUNT, LARGEST_SEED
from lab.core.streams import printed

# which student of a run
_SELECTED = "RUN@STAGE:VARIANT:REPLICATE"
_STAGE_HELP = "Use the student after this stage; 0 is the untrained one. By default the last finished stage."
_Stage = Annotated[int | None, typer.Option(min=0, max=3, help=_STAGE_HELP)]
_Variant = Annotated[str | None, typer.Option(help="Label of the student, if the run trained several variants.")]
_Replicate = Annotated[int, typer.Option(min=0, help="Number of the replicate, if the run trained several.")]

_EXPORT = """Write a distilled student as a folder or a GGUF file.

With --format mmmamba the folder has the layout of mmMamba's release: config.json records the kind of every layer, and
the tokenizer is copied from the teacher. Students of other teachers than a HoVLE, or with another mixer than
Mamba-2, are stored in their teacher's layout.

With --format transformers the student is a stock model, granitemoehybrid, falcon_h1 or qwen3_next, in a llava or
internvl if it reads images, which transformers runs without other code. The folder has tokenizer, chat template and
model card; transformers has run it, and given the student's logits and answers. A student that no stock model can be is
refused with the reason; student=serving trains one that most servers can run.

With --format gguf a text student of student=serving or two_timescales is written as one file for llama.cpp, with
tokenizer and chat template; matrices are F16, or as --precision says: F32, F16, Q8_0. The file is read back and
compared with the student.

If the export fails, nothing is left. `lab generate`, `lab eval` and `lab distill from_run=FOLDER` load either folder,
llama.cpp the file.

\b
Examples:
  lab export RUN mmmamba-tiny
  lab export RUN served --format transformers --precision bfloat16
  lab export RUN student.gguf --format gguf --precision Q8_0
  lab export RUN mmmamba-tiny-stage-2 --stage 2
  lab export RUN kept-softmax --variant head_stacked_2
"""

_GENERATE = """Generate an answer to a prompt, optionally about images.

Images are tiled and the prompt is formatted as in training. The last line on standard error reports the speed and the
memory of each kind of layer: a state of constant size for linear-time layers, a cache that grows with the text for
attention.

\b
Examples:
  lab generate shipped --prompt "How many pictures show a bag?" --image a.png
  lab generate RUN --prompt "<image> <image> Same?" --image a --image b
  lab generate mmmamba-tiny --prompt "How many?" --temperature 0.7 --top-p 0.9
  lab generate mmmamba-tiny --requests prompts.jsonl answers.jsonl
  lab generate MODEL --prompt-file long.txt --max-new-tokens 50
  lab generate MODEL --chat

\b
A line of prompts.jsonl:
  {"prompt": "How many pictures show a bag?", "images": ["a.png"]}
"""


def add(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command(help=_EXPORT, rich_help_panel=MODELS)
    def export(
        run: Annotated[
            str,
            typer.Argument(help=f"A run of `lab distill`: its directory, or the end of its name; or {_SELECTED}."),
        ],
        dest: Annotated[Path, typer.Argument(help="The folder, or .gguf file, to write; it must not exist.")],
        stage: _Stage = None,
        variant: _Variant = None,
        replicate: _Replicate = 0,
        layout: Annotated[
            str,
            typer.Option("--format", help="Layout: mmmamba, its release's; transformers, a stock model; gguf, a file."),
        ] = "mmmamba",
        precision: Annotated[
            str | None,
            typer.Option(
                help="Precision of all weights: bfloat16, float32, float64, by default as trained; of a GGUF file F32, "
                "F16, Q8_0."
            ),
        ] = None,
    ) -> None:
        """Write a distilled student as a folder or a GGUF file."""
        from lab.cli.dispatch import one_line_errors

        with one_line_errors():
            sources = importlib.import_module("lab.experiments.distill.sources")
            written = importlib.import_module("lab.experiments.distill.export").main(
                run, dest, sources.StudentSelector(stage, variant, replicate), layout=layout, precision=precision
            )
        print(written)

    @app.command(help=_GENERATE, rich_help_panel=MODELS)
    def generate(
        model: Annotated[
            str,
            typer.Argument(help=f"A checkpoint folder, a GGUF file, a run, {_SELECTED}, or `shipped`."),
        ],
        prompt: Annotated[str | None, typer.Option(help="The prompt; <image> marks where an image belongs.")] = None,
        prompt_file: Annotated[
            Path | None, typer.Option(help="A text file with the prompt; - reads standard input.")
        ] = None,
        requests: Annotated[
            tuple[Path, Path] | None,
            typer.Option(metavar="IN OUT", help="JSON lines with prompts, and a file for answers, continued if there."),
        ] = None,
        batch: Annotated[int, typer.Option(min=1, max=16, help="With --requests: how many are answered at once.")] = 1,
        chat: Annotated[
            bool, typer.Option("--chat", help="Talk: every line of standard input is a turn of one conversation.")
        ] = False,
        image: Annotated[
            list[Path] | None,
            typer.Option(help="Path of an image; repeat for several, in the order of the marks."),
        ] = None,
        temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 means greedy decoding.")] = 0.0,
        top_k: Annotated[int | None, typer.Option(help="Sample from the k most likely tokens only.")] = None,
        top_p: Annotated[float | None, typer.Option(help="Sample from the most likely tokens up to this sum.")] = None,
        seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Random seed for sampling.")] = 0,
        max_new_tokens: Annotated[
            int, typer.Option(min=1, max=LARGEST_COUNT, help="Maximum number of new tokens.")
        ] = 256,
        system: Annotated[str | None, typer.Option(help="System message; by default the one used in training.")] = None,
        max_tiles: Annotated[
            int | None, typer.Option(min=1, max=256, help="Maximum tiles per image; by default as trained.")
        ] = None,
        raw: Annotated[bool, typer.Option("--raw", help="Use the prompt as it is, without the chat template.")] = False,
        stage: _Stage = None,
        variant: _Variant = None,
        replicate: _Replicate = 0,
        precision: Annotated[
            str | None, typer.Option(help="Precision: bfloat16, float32 or float64; by default as stored.")
        ] = None,
        device: Annotated[str, typer.Option(help="Device: cpu, cuda, or auto (cuda if there is a GPU).")] = "auto",
        threads: Annotated[int | None, typer.Option(min=1, help="Torch threads; by default one per core.")] = None,
        products: Annotated[
            str, typer.Option(help="What computes linear layers: torch, onednn, native, packed, or auto (the fastest).")
        ] = "auto",
        json: Annotated[Path | None, typer.Option(help="Also write answer and measurements to this JSON file.")] = None,
    ) -> None:
        """Generate an answer to a prompt."""
        from lab.cli.dispatch import one_line_errors

        with one_line_errors(), printed(is_also_written=json is not None):
            distill = importlib.import_module("lab.experiments.distill.generation.command")
            request = distill.Request(
                model=model,
                selector=distill.StudentSelector(stage, variant, replicate),
                prompt="",
                images=image or [],
                is_raw=raw,
                system=system,
                max_tiles=max_tiles,
                sampling=distill.SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p),
                seed=seed,
                max_new_tokens=max_new_tokens,
                precision=precision,
                device=device,
                products=products,
            )
            prompts = distill.Prompts(text=prompt, file=prompt_file, requests=requests, num_rows=batch, is_chat=chat)
            distill.main(request, prompts, threads=threads, json_path=json)

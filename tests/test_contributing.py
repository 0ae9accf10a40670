"""Each recipe of CONTRIBUTING.md works as written, in a copy of the package."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lab.core.data.tokenizers import WordTokenizer

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "core", "conf", "experiments")
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
# heading, and what follows it up to the next one
RECIPES = {part.partition("\n")[0]: part for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]}
FILE = re.compile(r"^(At the end of )?`([^`\n]+)`:\n\n```\w+\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
# how the page says that a suite is run
(SUITES,) = re.findall(r"^(python -m pytest .*) SUITE$", TEXT, flags=re.MULTILINE)
# a file of the user, not of the package
OF_THE_USER = ("pairs.tsv",)
SECRET = "is this the copy?"

# what is added to a command that would take minutes; the rest of it is typed as it stands
SHORTER = {
    "lab distill": " ".join(
        [
            "threads=1",
            *(f"stage_{stage}.{key}" for stage in (1, 2, 3) for key in ("steps=2", "batch_size=2")),
            *(f"evaluation.{key}" for key in ("num_batches=1", "batch_size=2", "num_validation_batches=1")),
        ]
    ),
    "lab hmm-risk sweep experiment=hmm_risk/f11": "num_train=60 'widths=[5,80]' num_test=50 hmm.num_states=4 "
    "replicates=2 workers=1 context_length=8",
    "lab hmm-risk sweep": "num_train=20 replicates=2 workers=1 'observation_noise=[0.3]'",
}

WORDS = [f"w{number}" for number in range(40)]

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Workplace:
    """A copy of the package with one recipe in it, and an empty folder to type commands in."""

    package: Path
    here: Path
    recipe: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "LAB_OUTPUTS": str(self.here / "outputs"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.package.parent),
        }

    def _run(self, words: list[str], folder: Path) -> str:
        done = subprocess.run(
            words,
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def typed(self, line: str) -> str:
        """What a line of the recipe prints, shortened; `STUDENT` stands for the newest run."""
        for start, more in SHORTER.items():
            if line.startswith(start):
                line = f"{line} {more}"
                break
        if "STUDENT" in line:
            line = line.replace("STUDENT", self.run("distill").name)
        return self.shell(line)

    def shell(self, line: str) -> str:
        return self._run(["sh", "-c", line], self.here)

    def all_typed(self, **places: str) -> list[str]:
        """What each line of the recipe prints, with words of it replaced."""
        (block,) = COMMANDS.findall(self.recipe)
        printed = []
        for line in block.splitlines():
            for name, value in places.items():
                line = line.replace(name, value)
            printed.append(self.typed(line))
        return printed

    def run(self, study: str) -> Path:
        """The newest run."""
        return max((self.here / "outputs" / study / "runs").iterdir())

    def rows(self, study: str) -> list[dict[str, Any]]:
        """What the newest run recorded."""
        return [json.loads(line) for line in (self.run(study) / "metrics.jsonl").read_text().splitlines()]

    def trained_stages(self) -> set[int]:
        """The stages that the newest run of `lab distill` trained."""
        return {row["stage"] for row in self.rows("distill") if row["kind"] == "train"}

    def python(self, program: str) -> str:
        return self._run([sys.executable, "-c", program], self.here)

    def check_contract(self, *suites: str, only: str = "") -> None:
        """Run suites of the copy, which the recipe must name, as the page says; of their tests those `only` chooses."""
        for suite in suites:
            assert f"`{suite}`" in self.recipe, f"the recipe does not name {suite}"
        said = self._run(["sh", "-c", f"{SUITES} {' '.join(suites)} -q -k '{only}'"], self.package)
        assert re.match(r"\d+ passed", said.splitlines()[-1]), said


@pytest.fixture
def workplace(tmp_path: Path) -> Callable[[str], Workplace]:
    """The copy with the files of a recipe; none of them is there before."""

    def prepare(heading: str) -> Workplace:
        package, here = tmp_path / "copy" / "lab", tmp_path / "here"
        for room in (*ROOMS, "tests"):
            # with what is compiled of it
            shutil.copytree(ROOT / room, package / room)
        shutil.copy(ROOT / "pyproject.toml", package)
        here.mkdir()
        for at_the_end, name, content in FILE.findall(RECIPES[heading]):
            path = (here if name in OF_THE_USER else package) / name
            if at_the_end:
                content = f"{path.read_text()}\n\n{content}"
            else:
                assert not path.exists(), f"{name} is there already: choose another example"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        place = Workplace(package, here, RECIPES[heading])
        # a mark that only the copy has
        errors = package / "core" / "errors.py"
        errors.write_text(f"{errors.read_text()}\nSECRET = {SECRET!r}\n")
        found = place.python(
            "import lab.core.errors as e, lab.conf as c, lab.cli.main as m; print(e.SECRET, m.__file__)"
        )
        assert found.strip() == f"{SECRET} {package / 'cli' / 'main.py'}"
        return place

    return prepare


def test_every_recipe_is_tried() -> None:
    tried = re.findall(r'workplace\("([^"]+)"\)', Path(__file__).read_text())
    assert sorted(tried) == sorted(RECIPES)


def test_no_block_of_a_recipe_is_overlooked() -> None:
    for heading, recipe in RECIPES.items():
        num_blocks = len(re.findall(r"^```\w+$", recipe, flags=re.MULTILINE))
        assert num_blocks == len(FILE.findall(recipe)) + len(COMMANDS.findall(recipe)), heading
        assert len(COMMANDS.findall(recipe)) == 1, heading


def test_python_of_the_recipes_is_formatted_and_linted(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    names = []
    for recipe in RECIPES.values():
        for at_the_end, name, content in FILE.findall(recipe):
            if name.endswith(".py") and not at_the_end:
                names.append(name)
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_text(content)
    for words in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, *names], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_mixer(workplace: Callable[[str], Workplace]) -> None:
    place = workplace("Add a mixer")
    suites = ("tests/core/mixers/test_contract.py", "tests/core/models/test_family_contract.py")
    place.check_contract(*suites, only="retention and (test_contract or llama or qwen3 or hovle)")
    Image.new("L", (28, 28)).save(place.here / "a.png")
    _, _, answer = place.all_typed()
    assert answer.strip()
    assert place.trained_stages() == {1, 2, 3}
    content = json.loads((place.here / "retention-tiny" / "config.json").read_text())
    assert "retention" in json.dumps(content)
    assert "retention: Retention (arXiv 2307.08621)" in place.shell("lab distill --help")


def write_random_checkpoint(folder: Path, **changes: object) -> None:
    """Seed-OSS with random weights, as transformers writes it, and its words."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    # documents are parted by line breaks, prompts have a system message and roles
    tokenizer = WordTokenizer([*WORDS, "\n", "system", "user", "assistant", "The", "first", "word"])
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    }
    config = transformers.SeedOssConfig(**sizes, **changes)
    model = transformers.SeedOssForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator) + float("norm" in name))
    model.save_pretrained(folder)
    tokenizer.write(folder)
    tokens = torch.arange(30).view(2, 15)
    with torch.no_grad():
        torch.save(model(input_ids=tokens).logits, folder / "logits.pt")


@pytest.mark.filterwarnings("ignore")
def test_a_family(workplace: Callable[[str], Workplace]) -> None:
    place = workplace("Add a model family")
    place.check_contract("tests/core/models/test_family_contract.py", only="seed_oss")
    changed: dict[str, dict[str, object]] = {
        "teacher": {},
        "biases": {"attention_out_bias": True, "mlp_bias": True},
        "without": {"attention_bias": False, "tie_word_embeddings": True},
        "yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
    }
    for name, changes in changed.items():
        write_random_checkpoint(place.here / name, **changes)
    program = f"""
import torch
from pathlib import Path
from lab.core.models.decoder import Inputs
from lab.core.models.folder import ModelFolder
for name in {list(changed)}:
    folder = ModelFolder(Path(name))
    assert folder.family.name == "seed_oss"
    ours = folder.load(device=torch.device("cpu"), dtype=torch.float32)(Inputs(tokens=torch.arange(30).view(2, 15)))
    theirs = torch.load(Path(name) / "logits.pt")
    assert theirs.std() > 0.1
    print(float((ours - theirs).abs().max()))
"""
    differences = [float(line) for line in place.python(program).splitlines()]
    assert len(differences) == len(changed)
    assert max(differences) < 1e-5
    (place.here / "documents").mkdir()
    draw = random.Random(0)
    for number in range(40):
        (place.here / "documents" / f"{number}.txt").write_text(" ".join(draw.choices(WORDS, k=60)))
    texts = "data=text data.text.folder=documents data.text.piece_length=32 data.text.held_out_share=0.3"
    place.all_typed(**{"CHECKPOINT data=text": f"teacher {texts}"})
    assert place.trained_stages() == {1, 2, 3}
    assert "seed_oss" in json.loads((place.here / "seed-oss-student" / "config.json").read_text())["model_type"]


def test_a_data_set(workplace: Callable[[str], Workplace]) -> None:
    place = workplace("Add a data set")
    suites = ("tests/experiments/distill/test_data_sources_contract.py", "tests/conf/test_compose_distill.py")
    place.check_contract(*suites, only="pairs or every_option_composes")
    place.all_typed()
    assert place.trained_stages() == {1}


def test_a_figure(workplace: Callable[[str], Workplace]) -> None:
    place = workplace("Add a risk figure")
    place.check_contract("tests/conf/test_compose.py", only="f12 or figure or all_runs")
    place.all_typed()
    drawn = {path.name for path in (place.run("hmm_risk") / "figures").iterdir()}
    assert {"weight_norm.png", "weight_norm.pdf", "weight_norm.parquet"} <= drawn


def test_a_head(workplace: Callable[[str], Workplace]) -> None:
    place = workplace("Add a head")
    place.check_contract("tests/experiments/hmm_risk/test_heads_contract.py", only="class_means")
    (printed,) = place.all_typed()
    assert "accuracy" in printed
    assert {row["solved_by"] for row in place.rows("hmm_risk") if "solved_by" in row} == {"means"}
    assert (place.run("hmm_risk") / "table.parquet").exists()


def test_a_sink(workplace: Callable[[str], Workplace]) -> None:
    place = workplace("Add a sink")
    place.check_contract("tests/core/runs/test_sinks_contract.py")
    place.all_typed()
    page = (place.run("hmm_risk") / "latest.md").read_text()
    assert "## measured" in page
    assert re.search(r"^\| width \| \d+ \|$", page, flags=re.MULTILINE)

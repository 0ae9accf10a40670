"""The data sources are found, and a configuration names exactly one of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lab.core.data.prompt_format import PromptFormat
from lab.core.data.source_spec import SourceRequest
from lab.core.errors import ConfigError
from lab.core.hydra_schema import to_typed
from lab.experiments.distill.data_sources import DataConfig, data_sources
from lab.experiments.distill.tasks.named_digits import NamedDigitsConfig, named_digits_chance, named_digits_tokenizer
from lab.experiments.distill.tasks.picture_questions import PictureQuestionsConfig, picture_questions_tokenizer

CONF = Path(__file__).parents[3] / "conf" / "data"
TOKENIZER = picture_questions_tokenizer("")
FORMAT = PromptFormat(image_size=28, patch_size=7, max_tiles=4)


def composed(name: str, *overrides: str) -> DataConfig:
    schema, content = OmegaConf.structured(DataConfig), OmegaConf.load(CONF / f"{name}.yaml")
    return to_typed(OmegaConf.merge(schema, content, OmegaConf.from_dotlist(list(overrides))), DataConfig)


def test_every_source_has_a_yaml_file_and_every_yaml_file_a_source() -> None:
    assert sorted(data_sources()) == sorted(path.stem for path in CONF.glob("*.yaml"))


def test_a_process_that_makes_samples_does_without_torch() -> None:
    modules = sorted({source.options.__module__ for source in data_sources().values()})
    program = f"import sys, {', '.join(modules)}, lab.core.data.prefetch_worker; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("kind", data_sources())
def test_a_yaml_file_names_its_own_source_and_no_other(kind: str) -> None:
    content = OmegaConf.to_container(OmegaConf.load(CONF / f"{kind}.yaml"))
    assert isinstance(content, dict)
    assert list(content) == [kind]


def test_one_source_and_no_more_is_named() -> None:
    with pytest.raises(ConfigError, match=r"exactly one source but has none; choose data=.* or "):
        DataConfig()
    with pytest.raises(ConfigError, match="has named_digits, picture_questions; choose data=named_digits or picture"):
        DataConfig(picture_questions=PictureQuestionsConfig(), named_digits=NamedDigitsConfig())


def test_a_required_option_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"conversations\.path must be given"):
        composed("conversations")


def test_text_is_by_default_what_comes_with_python() -> None:
    assert composed("text").options.folder is None


def test_tasks_bring_their_vocabulary_and_the_accuracy_of_a_guess() -> None:
    task = composed("named_digits").source.task
    assert task is not None
    assert task.tokenizer("").tokens == named_digits_tokenizer().tokens
    assert task.chance() == named_digits_chance()
    assert composed("text").source.task is None


def test_only_a_new_teacher_has_lessons() -> None:
    config = composed("picture_questions")
    assert config.options.num_lessons > 0
    request = SourceRequest(split="train", seed=3, tokenizer=TOKENIZER, prompt_format=FORMAT)
    numbers = range(20)
    usual = config.source.open(config.options, request)
    assert max(len(usual[number].kinds) for number in numbers) > 1
    easy = config.source.open(
        config.options,
        SourceRequest(split="train", seed=3, tokenizer=TOKENIZER, prompt_format=FORMAT, has_lessons=True),
    )
    assert {len(easy[number].kinds) for number in numbers} == {1}

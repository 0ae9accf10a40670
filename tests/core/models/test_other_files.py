"""Which files of a teacher's folder a student gets: none that a link brings in from elsewhere."""

from pathlib import Path

import pytest

from lab.core.errors import CheckpointError
from lab.core.models.checkpoint import CONFIG
from lab.core.models.folder import ModelFolder


def folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / CONFIG).write_text('{"model_type": "llama"}')
    (path / "model.safetensors").write_bytes(b"")
    return path


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("secret")
    model = folder(tmp_path / "model")
    (model / "tokenizer_config.json").symlink_to("../id_rsa")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is a link to .*id_rsa, outside of"):
        ModelFolder(model).other_files()


def test_links_within_the_folder_and_the_cache_of_hugging_face_are_followed(tmp_path: Path) -> None:
    model = folder(tmp_path / "models--a--b" / "snapshots" / "0123")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    (blobs / "4567").write_text("{}")
    (model / "tokenizer.json").symlink_to("../../blobs/4567")
    (model / "LICENSE").write_text("MIT")
    (model / "LICENSE.txt").symlink_to("LICENSE")
    assert [path.name for path in ModelFolder(model).other_files()] == ["LICENSE", "LICENSE.txt", "tokenizer.json"]

"""Hydra reads and merges packaged files once in a process, which is most of what a composition takes."""

import pickle

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig

_read = ConfigRepository.load_config
_files: dict[tuple[str, str, str], bytes] = {}

_merge = ConfigLoaderImpl._compose_config_from_defaults_list
_merged: dict[tuple[str, ...], bytes] = {}


def _read_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """What Hydra reads of a packaged file, which no test changes; files of a test are read each time."""
    source = repository._find_object_source(config_path, ObjectType.CONFIG)
    if source is None or source.scheme() != "pkg":
        return _read(repository, config_path)
    key = source.provider, source.path, config_path
    if key not in _files:
        _files[key] = pickle.dumps(_read(repository, config_path))
    return pickle.loads(_files[key])


def _merge_once(loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
    """What Hydra makes of the same packaged files, before it applies values that are typed."""
    sources = repo.get_sources()
    if not all(source.scheme() in ("pkg", "structured") for source in sources):
        return _merge(loader, defaults, repo)
    key = (repr(defaults), *(f"{source.provider} {source.path}" for source in sources))
    if key not in _merged:
        _merged[key] = pickle.dumps(_merge(loader, defaults, repo))
    merged: DictConfig = pickle.loads(_merged[key])
    return merged


def install() -> None:
    """From now on."""
    ConfigRepository.load_config = _read_once
    ConfigLoaderImpl._compose_config_from_defaults_list = _merge_once
    # Hydra copies the store of all schemas, which nobody changes, for each composition
    ConfigStore.__deepcopy__ = lambda store, _: store

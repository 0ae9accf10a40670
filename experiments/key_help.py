"""The keys of configuration groups for `--help`, read from the source of their dataclasses.

Importing the dataclasses would load numpy and torch, for which nobody who asks for help should wait.
"""

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lab.core.dotted_keys import by_dotted_key

_WIDTH, _COLUMN = 78, 27
# what stands for a key that has no default
_REQUIRED = "must be given"
_WORDS = {"None": "null", "True": "true", "False": "false", "list": "[]", "dict": "{}", "MISSING": _REQUIRED}


@dataclass(frozen=True, slots=True)
class KeyGroup:
    """Keys with a common beginning.

    Attributes:
        prefix: the beginning, with its dot.
        schema: "module:class" of the dataclass whose fields they are.
        group: the folder of conf/ whose files choose values; empty if there is none.
        files: that have these keys, if not all of the group do: those whose defaults list this schema, or that hold
            this part.
    """

    prefix: str
    schema: str
    group: str = ""
    files: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """A field of a dataclass: its name, its default as it would be typed, and its docstring."""

    name: str
    default: str
    text: str


def options_with_keys(prefix: str, group: str, folders: Sequence[str], files: str = "{}") -> list[KeyGroup]:
    """The keys of every option of a group of which each is a file in conf/ and a module with a dataclass.

    Args:
        prefix: of the keys; {} stands for the option.
        group: the folder of conf/.
        folders: packages with a module for each option, named like it or with `kind="OPTION"` in it. Its dataclass is
            the first one whose name ends with Options or Config.
        files: as in `KeyGroup`; {} stands for the option.
    """
    found = []
    for option in sorted(_files_of(group)):
        for module in (name for folder in folders for name in _modules(folder)):
            is_its = module.endswith(f".{option}") or f'kind="{option}"' in _source(module)
            names = [node.name for node in _tree(module).body if isinstance(node, ast.ClassDef)] if is_its else []
            name = next((name for name in names if name.endswith(("Options", "Config"))), None)
            if name is not None:
                found.append(KeyGroup(prefix.format(option), f"{module}:{name}", group, files.format(option)))
    return found


def keys_of(schema: str) -> dict[str, Key]:
    """The keys of a dataclass, those of nested ones included, by their names behind its prefix.

    Args:
        schema: "module:class", of a dataclass in core/ or experiments/.
    """
    module, _, name = schema.partition(":")
    tree, definition = _class(module, name)
    found: dict[str, Key] = {}
    for base in definition.bases:
        place = _place(tree, module, ast.unparse(base))
        found |= keys_of(place) if place else {}
    for field, after in zip(definition.body, [*definition.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and not ast.unparse(field.annotation).startswith("ClassVar"):
            of_base = found.pop(ast.unparse(field.target), None)
            text = _docstring(after) or (of_base.text if of_base else "")
            found |= {key.name: key for key in _keys_of_field(tree, module, field, text)}
    return found


def help_of_keys(groups: Sequence[KeyGroup]) -> str:
    """Lines for `--help` about every key of some groups, each group a paragraph that is not wrapped again."""
    return "\n\n".join(f"\b\n{_help_of_group(group)}" for group in groups if keys_of(group.schema))


def _help_of_group(group: KeyGroup) -> str:
    """A heading, then name, meaning, choices and default of every key."""
    options = _options(group)
    is_some = group.files and options
    heading = f"{group.group}={', '.join(options)}" if is_some else f"{group.prefix}KEY"
    lines = [textwrap.fill(f"{heading}:", _WIDTH, subsequent_indent="  ")]
    for key in keys_of(group.schema).values():
        name = f"  {group.prefix}{key.name}"
        text = f"{key.text} [{_default(key, options)}]".lstrip()
        is_beside = len(name) <= _COLUMN - 2
        wrapped = textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=name.ljust(_COLUMN) if is_beside else " " * _COLUMN,
            subsequent_indent=" " * _COLUMN,
            break_on_hyphens=False,
        )
        lines += wrapped if is_beside else [name, *wrapped]
    return "\n".join(lines)


def _default(key: Key, options: Mapping[str, Mapping[str, str]]) -> str:
    """The default; where options of the group set another one, that with their names."""
    values: dict[str, list[str]] = {}
    for option, content in options.items():
        values.setdefault(content.get(key.name, key.default), []).append(option)
    if all(value == name for value, names in values.items() for name in names) and values:
        return "chosen with the group"
    if len(values) <= 1:
        return next(iter(values), key.default)
    others = [f"{', '.join(names)}: {value}" for value, names in values.items() if value != key.default]
    return "; ".join([*([key.default] if key.default in values else []), *others])


def _options(group: KeyGroup) -> dict[str, dict[str, str]]:
    """What each file of the group sets, by its name."""
    found = {}
    for name, content in _files_of(group.group).items() if group.group else ():
        has_schema = group.files in content.get("defaults", ())
        if not group.files or has_schema or group.files in content:
            own = by_dotted_key(content if not group.files or has_schema else content[group.files])
            found[name] = {key: _given(value) for key, value in own.items()}
    return found


@cache
def _files_of(group: str) -> dict[str, dict[str, Any]]:
    import yaml  # noqa: PLC0415 - only here

    paths = sorted(files("lab.conf").joinpath(group).iterdir(), key=lambda path: path.name)
    yamls = [path for path in paths if path.name.endswith(".yaml")]
    return {path.name.removesuffix(".yaml"): yaml.safe_load(path.read_text()) for path in yamls}


def _given(value: object) -> str:
    """A value of a file as it is typed."""
    return _REQUIRED if value == "???" else _WORDS.get(str(value), str(value))


def _keys_of_field(tree: ast.Module, module: str, field: ast.AnnAssign, text: str) -> Iterator[Key]:
    name, annotation = ast.unparse(field.target), ast.unparse(field.annotation)
    value = "MISSING" if field.value is None else ast.unparse(field.value)
    place = _place(tree, module, annotation)
    if place is None:
        yield Key(name, _as_typed(value), text)
        return
    _, definition = _class(*place.split(":"))
    meaning = (ast.get_docstring(definition) or "").partition("\n")[0]
    if "Enum" not in map(ast.unparse, definition.bases):
        for key in keys_of(place).values():
            yield Key(f"{name}.{key.name}", key.default, key.text or meaning)
        return
    values = [entry.value for entry in definition.body if isinstance(entry, ast.Assign)]
    choices = ", ".join(str(value.value) for value in values if isinstance(value, ast.Constant))
    yield Key(name, _as_typed(value), f"{(text or meaning).removesuffix('.')}: {choices}.")


def _as_typed(value: str) -> str:
    value = re.sub(r"^field\(default_factory=(?:lambda: )?(.*)\)$", r"\1", value)
    # an entry of an Enum
    value = re.sub(r"^[A-Z]\w*\.(\w+)$", r"\1", value)
    return _WORDS.get(value, value) if value in (*_WORDS, "''") else value.replace("'", "")


def _docstring(statement: ast.stmt | None) -> str:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""


def _place(tree: ast.Module, module: str, name: str) -> str | None:
    """Where a class is defined that a module of the project names; None for any other."""
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == name:
            return f"{module}:{name}"
        if isinstance(statement, ast.ImportFrom) and name in {alias.name for alias in statement.names}:
            source = statement.module or ""
            is_ours = source.startswith(("lab.core.", "lab.experiments."))
            return _place(_tree(source), source, name) if is_ours else None
    return None


def _class(module: str, name: str) -> tuple[ast.Module, ast.ClassDef]:
    tree = _tree(module)
    return tree, next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _path(module: str) -> Path:
    _, room, *names = module.split(".")
    return Path(str(files(f"lab.{room}"))).joinpath(*names)


def _modules(folder: str) -> list[str]:
    return [f"{folder}.{path.stem}" for path in sorted(_path(folder).glob("*.py")) if path.stem != "__init__"]


@cache
def _source(module: str) -> str:
    path = _path(module)
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(_source(module))

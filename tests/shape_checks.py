"""The shape annotations of the package, checked while tests run.

Functions, dataclasses and named tuples with an array in their annotations are checked by jaxtyping and beartype: the
kind of numbers, the number of dimensions, and that a letter means one size throughout a call. The rest is mypy's.
"""

import ast
import functools
import sys
import types
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from importlib import _bootstrap_external
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import jaxtyping
from beartype import beartype

# a loop calls a function with the same shapes again and again: the first calls in each test tell
CALLS_A_TEST = 3

_calls: Counter[Any] = Counter()
_is_on = False


def start_test(*, is_on: bool) -> None:
    """Count the calls from zero; with `is_on=False` nothing is checked until the next start."""
    global _is_on
    _is_on = is_on
    _calls.clear()


def shape_checked(target: Any) -> Any:
    """A function or a class that raises `jaxtyping.TypeCheckError` where an array is not as annotated."""
    arrays = {name: hint for name, hint in target.__annotations__.items() if _has_array(hint)}
    if not arrays:
        return target
    return _class_checked(target, arrays) if isinstance(target, type) else _function_checked(target, arrays)


def _has_array(hint: Any) -> bool:
    is_array = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return is_array or any(map(_has_array, get_args(hint)))


def _function_checked(function: Any, arrays: Mapping[str, Any]) -> Any:
    # made by the first call that is checked: most functions see none, and a function within another is made each time
    checked: Any = None

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal checked
        if not _is_on or _calls[function.__code__] >= CALLS_A_TEST:
            return function(*args, **kwargs)
        _calls[function.__code__] += 1
        if checked is None:
            checked = _checking(function, arrays)
        return checked(*args, **kwargs)

    return wrapper


def _checking(function: Any, arrays: Mapping[str, Any]) -> Any:
    only_arrays = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    only_arrays.__kwdefaults__ = function.__kwdefaults__
    only_arrays.__module__, only_arrays.__qualname__ = function.__module__, function.__qualname__
    only_arrays.__annotations__ = dict(arrays)
    return jaxtyping.jaxtyped(only_arrays, typechecker=beartype)


def _class_checked(kind: Any, arrays: Mapping[str, Any]) -> Any:
    """The class itself, whose fields are checked when an object has been made."""
    check = functools.cache(lambda: _checking_fields(kind, arrays))
    is_tuple = issubclass(kind, tuple)
    make = kind.__new__ if is_tuple else kind.__init__

    @functools.wraps(make)
    def wrapper(first: Any, *args: Any, **kwargs: Any) -> Any:
        result = make(first, *args, **kwargs)
        made = result if is_tuple else first
        if _is_on and _calls[kind] < CALLS_A_TEST:
            _calls[kind] += 1
            check()(**{name: getattr(made, name) for name in arrays})
        return result

    setattr(kind, "__new__" if is_tuple else "__init__", wrapper)
    return kind


def _checking_fields(kind: Any, arrays: Mapping[str, Any]) -> Any:
    scope: dict[str, Callable[..., None]] = {}
    exec(f"def fields(*, {', '.join(arrays)}): pass", scope)
    scope["fields"].__annotations__ = dict(arrays)
    scope["fields"].__module__, scope["fields"].__qualname__ = kind.__module__, kind.__qualname__
    return jaxtyping.jaxtyped(scope["fields"], typechecker=beartype)


def _names(*parts: ast.AST | None) -> set[str]:
    found = (node for part in parts if part is not None for node in ast.walk(part))
    return {node.id for node in found if isinstance(node, ast.Name)}


class _Decorate(ast.NodeTransformer):
    """Put the check on every function and class that has an array in its annotations."""

    def __init__(self, tree: ast.Module) -> None:
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "jaxtyping"]
        self.kinds = {name.name for node in imports for name in node.names}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        annotations = [part.annotation for part in ast.walk(node.args) if isinstance(part, ast.arg)]
        if _names(node.returns, *annotations) & self.kinds:
            # innermost: what is above it may return something that is not a function
            node.decorator_list.append(ast.Name("__shape_checked__", ast.Load()))
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        fields = _names(*(part.annotation for part in node.body if isinstance(part, ast.AnnAssign)))
        if fields & self.kinds and (_names(*node.decorator_list) | _names(*node.bases)) & {"dataclass", "NamedTuple"}:
            # outermost: `@dataclass` makes the method that is wrapped
            node.decorator_list.insert(0, ast.Name("__shape_checked__", ast.Load()))
        return node


# the name under which Python keeps a compiled module with checks, which changes with this file
_kept_as = functools.partial(
    cache_from_source, optimization=f"shapes{sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"
)


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> types.CodeType | None:
        # what is kept under the usual name is the code without checks
        with patch.object(_bootstrap_external, "cache_from_source", _kept_as):
            return super().get_code(fullname)

    def source_to_code(self, data: Any, path: Any, *, _optimize: int = -1) -> types.CodeType:
        if b"jaxtyping" not in data:
            return super().source_to_code(data, path, _optimize=_optimize)
        tree = ast.parse(data, path)
        return compile(ast.fix_missing_locations(_Decorate(tree).visit(tree)), path, "exec", dont_inherit=True)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__shape_checked__"] = shape_checked
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = tuple(packages)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not f"{fullname}.".startswith(self.packages):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install(*packages: str) -> None:
    """Check what is imported of these packages from now on."""
    sys.meta_path.insert(0, _Finder([f"{name}." for name in packages]))

"""The rules of the house: which way imports go, what is packaged, and how large a file may grow."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cli", "conf", "core", "experiments")
MAX_LINES = 350

# what each room may import from `lab`; a study may also import itself, and the bench the studies that it times
ALLOWED = {
    "core": ("lab.core",),
    "experiments": ("lab.core", "lab.experiments.spec"),
    "cli": ("lab.cli", "lab.core", "lab.experiments"),
    "conf": (),
}
HEAVY = ("numpy", "scipy", "torch", "hydra", "omegaconf", "matplotlib", "pyarrow")
KERNELS = {
    "core/delta_rule/fla.py": "fla",
    "core/ssd/mamba_ssm.py": "mamba_ssm",
    "core/ssd/conv.py": "causal_conv1d",
}

MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(tree: ast.AST) -> Iterator[str]:
    """Every imported name in full: `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_at_top(tree: ast.Module) -> set[str]:
    """Packages that importing the module loads at once: not those inside functions or `if TYPE_CHECKING`."""
    found = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if is_for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {name.split(".")[0] for name in imported(node)}
        waiting += ast.iter_child_nodes(node)
    return found


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_walk_sees_the_modules() -> None:
    assert {"cli/main.py", "core/runs.py", "experiments/hmm_risk/sweep.py"} <= {name_of(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    room, *rest = path.relative_to(ROOT).parts
    allowed = ALLOWED[room]
    if room == "experiments" and len(rest) > 1:
        allowed += ("lab.experiments",) if rest[0] == "bench" else (f"lab.experiments.{rest[0]}",)
    ours = [name for name in imported(tree_of(path)) if is_within(name, ("lab", *ROOMS))]
    # cli/main.py lists the studies from the package itself
    allowed_here = (*allowed, "lab.experiments") if room == "cli" else allowed
    assert [name for name in ours if not is_within(name, allowed_here)] == []


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_tests_import_the_package_by_its_name(path: Path) -> None:
    assert [name for name in imported(tree_of(path)) if is_within(name, ROOMS)] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_private_name_crosses_a_module(path: Path) -> None:
    ours = [name for name in imported(tree_of(path)) if is_within(name, ("lab",))]
    private = [name for name in ours if re.search(r"\._(?!_)", name)]
    tree = tree_of(path)
    modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lab")
        for alias in node.names
    }
    private += [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
    ]
    assert private == []


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=name_of)
def test_a_file_has_one_subject(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_there_is_no_global_random_state(path: Path) -> None:
    used = [ast.unparse(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute)]
    numpy_global = re.compile(r"(np|numpy)\.random\.(?!Generator$|SeedSequence$|default_rng$|PCG64$)\w+$")
    assert [name for name in used if re.search(r"torch\.(cuda\.)?(manual_seed|seed)(_all)?$", name)] == []
    assert [name for name in used if numpy_global.match(name)] == []
    assert [name for name in imported(tree_of(path)) if is_within(name, ("random",))] == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_gpu_kernels_are_imported_where_they_are_wrapped(path: Path) -> None:
    kernels = {name.split(".")[0] for name in imported(tree_of(path))} & set(KERNELS.values())
    assert kernels <= {KERNELS.get(name_of(path))}
    assert not imported_at_top(tree_of(path)) & set(KERNELS.values()), "inside a function: the package is optional"


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith("cli/")], ids=name_of)
def test_the_command_line_loads_nothing_heavy(path: Path) -> None:
    assert imported_at_top(tree_of(path)) & set(HEAVY) == set()


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).startswith("core/")], ids=name_of)
def test_the_core_prints_in_one_place(path: Path) -> None:
    tree = tree_of(path)
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    prints = [name for name in called if name in ("print", "Console", "rich.print", "sys.stdout.write")]
    assert name_of(path) == "core/console.py" or prints == []


def test_the_packages_that_are_listed_are_those_on_the_disk() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {"lab." + ".".join(path.parent.relative_to(ROOT).parts) for path in MODULES}
    assert sorted(settings["packages"]) == sorted(on_disk)
    assert settings["package-dir"] == {f"lab.{room}": room for room in ROOMS}


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=name_of)
def test_configurations_name_no_code_outside_hydra(path: Path) -> None:
    # Hydra's own tree (hydra/launcher/...) says which launcher; everywhere else a name is looked up in a table of ours
    is_hydra = path.relative_to(ROOT / "conf").parts[0] == "hydra"
    assert is_hydra or "_target_" not in path.read_text()

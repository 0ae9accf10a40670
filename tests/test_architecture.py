"""The rules of the house: which way imports go, what is packaged, and how large a file may grow."""

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("api", "cli", "conf", "core", "experiments")
MAX_LINES = 350

# what each room may import from `lab`; a study may also import itself, the bench the studies that it times, and an
# evaluation the models of a distillation
ALLOWED = {
    "core": ("lab.core",),
    "experiments": ("lab.core", "lab.experiments.key_help", "lab.experiments.spec"),
    "api": ("lab.experiments.distill",),
    "cli": ("lab.cli", "lab.core", "lab.experiments"),
    "conf": (),
}
OF_OTHERS = {"bench": ("lab.experiments",), "eval": ("lab.experiments.distill", "lab.experiments.eval")} | {
    "probe": ("lab.experiments.distill", "lab.experiments.probe")
}
HEAVY = ("numpy", "scipy", "torch", "hydra", "omegaconf", "matplotlib", "pyarrow")
KERNELS = {
    "core/delta_rule/fla.py": "fla",
    "core/ssd/mamba_ssm.py": "mamba_ssm",
    "core/conv/causal_conv.py": "causal_conv1d",
}

MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules ask of a module, found in one walk.

    Attributes:
        imported: every imported name in full: `from a import b` gives a.b.
        at_top: packages that importing the module loads at once.
        classes: the names of its classes, and those of their bases.
        from_lab: the names that modules and objects of the package have here.
        names: every name that stands alone.
        attributes: every `a.b.c`; what is no name in front, such as a call, is left out: `.b.c`.
        called: every name or `a.b.c` that is called.
    """

    imported: tuple[str, ...]
    at_top: frozenset[str]
    classes: Mapping[str, Sequence[str]]
    from_lab: frozenset[str]
    names: frozenset[str]
    attributes: tuple[str, ...]
    called: tuple[str, ...]


def dotted(node: ast.AST) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "", *reversed(parts)])


def imported_by(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.level == 0, f"line {node.lineno}: relative import"
    return [f"{node.module}.{alias.name}" for alias in node.names]


@cache
def facts_of(path: Path) -> Facts:
    tree = ast.parse(path.read_text())
    imported: list[str] = []
    from_lab, names = set(), set()
    attributes, called = [], []
    for node in ast.walk(tree):
        match node:
            case ast.Name():
                names.add(node.id)
            case ast.Attribute():
                attributes.append(dotted(node))
            case ast.Call():
                called.append(dotted(node.func))
            case ast.Import():
                imported += imported_by(node)
            case ast.ImportFrom():
                imported += imported_by(node)
                if (node.module or "").startswith("lab"):
                    from_lab |= {alias.asname or alias.name for alias in node.names}
    return Facts(
        imported=tuple(imported),
        at_top=imported_at_top(tree),
        classes={
            node.name: [dotted(base) for base in node.bases] for node in tree.body if isinstance(node, ast.ClassDef)
        },
        from_lab=frozenset(from_lab),
        names=frozenset(names),
        attributes=tuple(attributes),
        called=tuple(called),
    )


def imported_at_top(tree: ast.Module) -> frozenset[str]:
    """Not those inside functions or `if TYPE_CHECKING`."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if is_for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {name.split(".")[0] for name in imported_by(node)}
        waiting += ast.iter_child_nodes(node)
    return frozenset(found)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_walk_sees_the_modules() -> None:
    assert {"cli/main.py", "core/runs/record.py", "experiments/hmm_risk/job.py"} <= {name_of(path) for path in MODULES}


def offenders(paths: list[Path], found_in: Callable[[Path], Iterable[str]]) -> list[str]:
    """`file: what breaks the rule`, for every file at once."""
    return [f"{name_of(path)}: {found}" for path in paths for found in found_in(path)]


def test_imports_go_one_way() -> None:
    def wrong(path: Path) -> list[str]:
        room, *rest = path.relative_to(ROOT).parts
        allowed = ALLOWED[room]
        if room == "experiments" and len(rest) > 1:
            allowed += OF_OTHERS.get(rest[0], (f"lab.experiments.{rest[0]}",))
        ours = [name for name in facts_of(path).imported if is_within(name, ("lab", *ROOMS))]
        # cli/main.py lists the studies from the package itself
        allowed_here = (*allowed, "lab.experiments") if room == "cli" else allowed
        return [name for name in ours if not is_within(name, allowed_here)]

    assert offenders(MODULES, wrong) == []


def test_tests_import_the_package_by_its_name() -> None:
    # of a room, or relative: files without these words are not parsed
    suspicious = re.compile(
        rf"\b(from|import)[\s\\(]+({'|'.join(ROOMS)})\b|,[\s\\]*({'|'.join(ROOMS)})\b|\bfrom[\s\\]*\."
    )

    def wrong(path: Path) -> list[str]:
        return [name for name in facts_of(path).imported if is_within(name, ROOMS)]

    assert offenders([path for path in TESTS if suspicious.search(path.read_text())], wrong) == []


def test_no_private_name_crosses_a_module() -> None:
    def private(path: Path) -> list[str]:
        facts = facts_of(path)
        split = [name.split(".") for name in facts.attributes]
        read = [
            f"{owner}.{name}"
            for owner, name, *rest in split
            if not rest and owner in facts.from_lab and name.startswith("_") and not name.startswith("__")
        ]
        ours = [name for name in facts.imported if is_within(name, ("lab",))]
        return [name for name in ours if re.search(r"\._(?!_)", name)] + read

    assert offenders(MODULES, private) == []


def test_a_file_has_one_subject() -> None:
    def too_long(path: Path) -> list[str]:
        num_lines = len(path.read_text().splitlines())
        return [f"{num_lines} lines"] if num_lines > MAX_LINES else []

    assert offenders([*MODULES, *TESTS], too_long) == []


def test_there_is_no_global_random_state() -> None:
    numpy_global = re.compile(r"(np|numpy)\.random\.(?!Generator$|SeedSequence$|default_rng$|PCG64$)\w+$")
    torch_global = re.compile(r"torch\.(cuda\.)?(manual_seed|seed)(_all)?$")

    def used(path: Path) -> list[str]:
        facts = facts_of(path)
        return [name for name in facts.attributes if torch_global.search(name) or numpy_global.match(name)] + [
            name for name in facts.imported if is_within(name, ("random",))
        ]

    assert offenders(MODULES, used) == []


def test_gpu_kernels_are_imported_where_they_are_wrapped_and_inside_functions() -> None:
    def wrong(path: Path) -> set[str]:
        facts = facts_of(path)
        kernels = {name.split(".")[0] for name in facts.imported} & set(KERNELS.values())
        return (kernels - {KERNELS.get(name_of(path), "")}) | (facts.at_top & set(KERNELS.values()))

    assert offenders(MODULES, wrong) == []


def test_the_command_line_loads_nothing_heavy() -> None:
    loaded = [path for path in MODULES if name_of(path).startswith(("api/", "cli/"))]
    assert offenders(loaded, lambda path: facts_of(path).at_top & set(HEAVY)) == []


def test_the_core_prints_in_two_places() -> None:
    def prints(path: Path) -> list[str]:
        printing = ("print", "Console", "rich.print", "sys.stdout.write")
        return [name for name in facts_of(path).called if name in printing]

    places = ("core/runs/console.py", "core/streams.py")
    core = [path for path in MODULES if name_of(path).startswith("core/") and name_of(path) not in places]
    assert offenders(core, prints) == []


def test_a_mixer_is_named_in_its_own_file_alone() -> None:
    # what mixers have in common, and the attention that a teacher's decoder is made of; a benchmark compares with the
    # published layer
    shared = {"Mixer", "GatedMixer"}
    in_models = {"SoftmaxAttention"}
    classes = {
        name: path
        for path in MODULES
        if path.parent == ROOT / "core" / "mixers"
        for name, bases in facts_of(path).classes.items()
        if any(base.endswith("Mixer") for base in bases)
    }
    assert "Mamba2" in classes

    def named(path: Path) -> list[str]:
        names = facts_of(path).names | {name.rpartition(".")[2] for name in facts_of(path).imported}
        own = in_models if name_of(path).startswith("core/models/") else set()
        return sorted(names & set(classes) - shared - own)

    outside = [path for path in MODULES if not name_of(path).startswith(("core/mixers/", "experiments/bench/"))]
    assert offenders(outside, named) == []


def test_a_family_of_models_is_named_in_its_own_folder_alone() -> None:
    folders = {path.parent for path in MODULES if path.parent.parent == ROOT / "core" / "models"}
    classes = {name for path in MODULES if path.parent in folders for name in facts_of(path).classes}
    assert {"Hovle", "HovleConfig", "LlamaConfig"} <= classes
    modules = tuple(f"lab.core.models.{folder.name}" for folder in folders)

    def named(path: Path) -> list[str]:
        others = tuple(module for module in modules if path.parent.name != module.rpartition(".")[2])
        names = facts_of(path).names & classes
        foreign = {name for name in facts_of(path).imported if is_within(name, others)}
        return sorted(foreign if path.parent in folders else foreign | names)

    assert offenders(MODULES, named) == []


def test_linear_layers_have_one_door() -> None:
    def around(path: Path) -> list[str]:
        linear = ("nn.Linear", "functional.linear", "torch.nn.functional.linear")
        return [name for name in facts_of(path).attributes if name in linear]

    layers = [path for path in MODULES if name_of(path).startswith(("core/mixers/", "core/models/"))]
    assert offenders(layers, around) == []


def test_configurations_name_no_code_outside_hydra() -> None:
    # Hydra's own tree (hydra/launcher/...) says which launcher; everywhere else a name is looked up in a table of ours
    ours = [path for path in (ROOT / "conf").rglob("*.yaml") if path.relative_to(ROOT / "conf").parts[0] != "hydra"]
    assert offenders(ours, lambda path: re.findall("_target_", path.read_text())) == []

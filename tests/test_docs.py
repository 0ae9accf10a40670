"""What the documents name exists, and their links lead somewhere."""

import importlib
import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "README.md",
]
API = (ROOT / "docs" / "api.md").read_text()
NAMES = re.findall(r"^- `([\w.]+)`: \S.*\.$", API, flags=re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
# a path in the repository that a sentence names: at least one folder, and a file or a folder that is looked up
PATH = re.compile(r"`((?:api|cli|conf|core|experiments|tests|docs|outputs/reference)/[\w./-]+)`")


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What links to headings of a document end with."""
    headings = re.findall(r"^#+ (.+)$", prose(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_line_of_the_api_page_is_read() -> None:
    assert len(NAMES) == len(re.findall(r"^- ", API, flags=re.MULTILINE)) > 40
    assert len(NAMES) == len(set(NAMES))


def fault(name: str) -> str | None:
    """What is wrong with a public name."""
    module_name, _, attribute = name.rpartition(".")
    module = importlib.import_module(module_name)
    found = getattr(module, attribute, None)
    docstring = inspect.getdoc(found)
    if found is None or not docstring or not module.__doc__:
        return "does not exist, or has no docstring"
    if any(part.startswith("_") for part in name.split(".")):
        return "is private"
    # where it is defined, and not where somebody imports it
    if not found.__module__.startswith(module_name):
        return f"is defined in {found.__module__}"
    # dataclasses without a docstring are given their signature
    return "has no docstring" if is_dataclass(found) and docstring.startswith(f"{attribute}(") else None


def test_every_public_name_exists_and_has_a_docstring() -> None:
    assert {name: fault(name) for name in NAMES if fault(name)} == {}


def test_links_of_the_documents_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for link in LINK.findall(prose(document)):
            path, _, anchor = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{document.relative_to(ROOT)}: {link}")
    assert broken == []


def test_paths_that_the_documents_name_exist() -> None:
    # the changelog also names what is gone
    documents = [document for document in DOCUMENTS if document.name != "CHANGELOG.md"]
    # files that recipes of CONTRIBUTING.md add
    recipes = set(re.findall(r"^`([^`]+)`:$", prose(ROOT / "CONTRIBUTING.md"), flags=re.MULTILINE))
    gone = [
        f"{document.relative_to(ROOT)}: {path}"
        for document in documents
        for path in PATH.findall(prose(document))
        if path not in recipes and not (ROOT / path).exists()
    ]
    assert gone == []


def test_every_page_is_listed() -> None:
    listed = set(LINK.findall((ROOT / "docs" / "README.md").read_text()))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    assert pages <= listed
    for page in sorted((ROOT / "docs" / "why").glob("*.md")):
        title = page.read_text().partition("\n")[0].removeprefix("# ")
        assert f"[{title}](why/{page.name})" in (ROOT / "docs" / "README.md").read_text()
        assert page.name.startswith(f"{title[:3]}-")

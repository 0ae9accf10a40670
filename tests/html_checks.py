"""What is wrong with an HTML page that must stand alone: nesting, links, headings, pictures, foreign resources."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "link", "br", "hr", "input"}
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
# an end that HTML lets one leave out: what is open closes when one of these begins, or ends
ENDS = {
    "td": {"td", "th", "tr", "tbody", "thead", "table"},
    "th": {"td", "th", "tr", "tbody", "thead", "table"},
    "tr": {"tr", "tbody", "thead", "table"},
}
# of whatever loads something
LOADING = ("src", "href", "srcset", "data", "action", "poster", "background")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[int] = []
        self.labels: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._close_for(tag)
        given = {name: value or "" for name, value in attrs}
        self.tags.append((tag, given))
        if len(given) < len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        if "aria-labelledby" in given:
            self.labels.append(given["aria-labelledby"])
        if tag in HEADINGS:
            self.headings.append(int(tag[1]))
        if tag == "img" and not given.get("alt"):
            self.faults.append("<img> without alt")
        if tag == "th" and "scope" not in given:
            self.faults.append("<th> without scope")
        if any(name.startswith("on") for name in given):
            self.faults.append(f"<{tag}> has a handler")
        if "style" in given:
            self.faults.append(f"<{tag}> has a style, which the policy refuses")
        for name in LOADING:
            value = given.get(name, "")
            if name == "href" and value.startswith("#"):
                self.links.append(value[1:])
            elif value and not value.startswith("data:image/"):
                self.faults.append(f"<{tag}> loads {value[:80]}")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.open[-1:]:
            self._close_for(tag)
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another element")

    def _close_for(self, tag: str) -> None:
        while self.open and tag in ENDS.get(self.open[-1], set()):
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def parsed(page: str) -> _Page:
    """The elements and the text of a page."""
    found = _Page()
    found.feed(page)
    found.close()
    return found


def faults(page: str) -> list[str]:
    """What is wrong with a page."""
    found = parsed(page)
    wrong = [*found.faults, *(f"<{tag}> is not closed" for tag in found.open)]
    wrong += [f"id {name} twice" for name in set(found.ids) if found.ids.count(name) > 1]
    wrong += [f"link to #{name}, which is not there" for name in (*found.links, *found.labels) if name not in found.ids]
    if found.headings[:1] != [1] or found.headings.count(1) != 1:
        wrong.append("there is not one <h1> at the beginning")
    wrong += [
        f"<h{level}> after <h{before}>"
        for before, level in zip(found.headings, found.headings[1:], strict=False)
        if level > before + 1
    ]
    if not page.startswith("<!DOCTYPE html>"):
        wrong.append("no doctype")
    if not re.search(r"<html lang=.+<meta charset=.+<title>.+</title>", page, flags=re.DOTALL):
        wrong.append("no language, character set or title")
    return wrong

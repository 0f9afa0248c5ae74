"""Links between pages, and the files and names that pages put in backticks, are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")))
PATH = r"(?<![\w/.])(?:(?:cahl_pl|callbacks|configs|docs|tests)/[\w/.*-]*[\w*/]|tools/[\w/]+\.\w+)"  # tools/excess is a tag
HISTORY = {"log.md", "CHANGELOG.md"}
"""Pages on the past: what stood in tools/ itself is a verb, or stands in a folder of it, by now."""


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings that GitHub and the built pages agree on."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    kept = [re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in re.findall(r"^#+ (.*)", text, re.M)]
    return {re.sub(r"\s", "-", words) for words in kept} & {re.sub(r"[-\s]+", "-", words) for words in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_names_in_backticks_are_there(page):
    sources = sorted([*(ROOT / "cahl_pl").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")])
    for code in re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")):
        for path in re.findall(PATH, code):
            old = page.name in HISTORY and re.fullmatch(r"(tests/)?tools/\w+\.\w+", path)
            assert old or any(ROOT.glob(path.rstrip("/"))), path
        named = re.fullmatch(r"([\w/]+\.py):([\w.]+)", code)
        if named and not named[1].startswith("my_"):  # a file of the reader's
            source = next(file.read_text() for file in sources if str(file).endswith("/" + named[1]))
            for name in named[2].split("."):
                assert re.search(rf"^\s*(async def|def|class) {name}\b|^{name}\b.* = ", source, re.M), code

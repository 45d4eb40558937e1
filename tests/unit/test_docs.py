"""The links in the documentation."""

import re
from pathlib import Path

from local import ROOT

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
CODE = [*ROOT.glob("ops/*.py"), ROOT / "template.yaml", ROOT / "monitoring.yaml"]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[Path, str, str]]:
    """Return each link inside the repository: the file that has it, the path and the anchor."""
    found = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    found += [(ROOT / "code", link) for file in CODE for link in re.findall(r"docs/\w+\.md#[a-z-]+", file.read_text())]
    return [(page, *link.partition("#")[::2]) for page, link in found if not link.startswith("https://")]


def test_each_link_leads_to_a_file_and_a_heading() -> None:
    """An engineer at night would land at the top of a page, or nowhere."""
    broken = []
    for page, path, anchor in links():
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{page.name}: {path}#{anchor}")
    assert broken == []
    assert len(links()) > 50

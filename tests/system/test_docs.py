"""README and docs: their length, links, pictures, translation and recipes; and the notebooks."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from pages import PAGES, ROOT, commands

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_the_chinese_readme_has_the_same_commands_and_code():
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert commands(ROOT / "README.md") == commands(ROOT / "README.zh-CN.md")
    code = [re.findall(r"`[^`\n]+`", text) for text in (english, chinese)]
    assert sorted(set(code[0])) == sorted(set(code[1]))
    numbers = [sorted(re.findall(r"\d+\.\d+", text)) for text in (english, chinese)]
    assert numbers[0] == numbers[1]


def test_pages_are_short():
    for page in PAGES:
        most = 120 if page.parent == ROOT else 150
        assert len(page.read_text(encoding="utf-8").splitlines()) <= most, page.name


def test_pictures_are_small():
    pictures = [*(ROOT / "docs").rglob("*.png")]
    assert pictures
    assert sum(path.stat().st_size for path in pictures) < 1_000_000
    runpy.run_path(str(ROOT / "docs/pictures.py"))  # what it imports is still there


def targets(page: Path) -> Iterator[Path]:
    """The files that a page links to or names; a heading of a link is checked here."""
    text = page.read_text(encoding="utf-8")
    for path, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
        target = page.parent / path if path else page
        yield target
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, heading
    for path in re.findall(r"`((?:src/lab|conf|tests|notebooks|docs|bench)/[\w/.-]+)`", text):
        yield ROOT / path


@pytest.mark.parametrize("page", [*PAGES, ROOT / "AGENTS.md"], ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    assert [path for path in targets(page) if not path.exists()] == []


def test_the_recipes_of_the_readme_are_those_of_the_pages(lab_in, tmp_path):
    """The experiment composes. Each line of code is in the pages that are executed."""
    recipes = re.search(r"```diff\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    pages = "".join((ROOT / f"docs/{name}.md").read_text(encoding="utf-8") for name in ("extending", "own-task"))
    for part in recipes.split("+++ ")[1:]:
        head, *lines = part.splitlines()
        name, lines = head.split()[0], [line.removeprefix("+") for line in lines]
        if name.endswith(".py"):
            assert [line for line in lines if line not in pages.splitlines()] == [], name
        else:
            path = tmp_path / "mylab" / name
            path.parent.mkdir(parents=True)
            path.write_text("\n".join(lines))
    (tmp_path / "mylab/__init__.py").touch()
    (tmp_path / "mylab-0.1.dist-info").mkdir()
    (tmp_path / "mylab-0.1.dist-info/entry_points.txt").write_text("[lab.packages]\nmylab = mylab\n")
    result = lab_in(tmp_path, "train", f"experiment={path.stem}", "--cfg", "job")
    assert "hidden: 256" in result.stdout, result.stderr


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_shows_its_pictures(notebook):
    content = nbformat.read(notebook, as_version=4)
    outputs = [output for cell in content.cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "committed without its pictures"
    NotebookClient(content, timeout=120, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    assert not [o.text for c in content.cells for o in c.get("outputs", []) if o.get("name") == "stderr"]

"""The structure of notebooks and pages, without running them."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
PAGES = sorted((ROOT / "book").glob("*.md"))
# A folder of somebody's machine.
FOLDER = re.compile(r"(?<![\w.:/])/(?:home|Users|root|tmp|var|work|mnt|opt)/\w|[A-Z]:\\\\?Users")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def contents() -> list[str]:
    """Return every file that the table of contents names, in its order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))

    def files(node):
        for key, value in node.items():
            if key in ("root", "file"):
                yield value
            elif isinstance(value, list):
                for child in value:
                    yield from files(child)

    return list(files(toc))


def cells(path: Path, kind: str) -> list[dict]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def test_the_table_of_contents_names_every_page_and_notebook_once():
    there = {path.relative_to(ROOT).with_suffix("").as_posix() for path in NOTEBOOKS + PAGES}
    named = contents()
    assert sorted(named) == sorted(there)


@each_notebook
def test_a_notebook_is_named_by_its_place_and_starts_with_its_title(path):
    assert path.stem == "own_network" or re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)  # that one is an appendix
    assert "".join(cells(path, "markdown")[0]["source"]).startswith("# ")


@each_notebook
def test_a_notebook_starts_with_its_parameters(path):
    code = cells(path, "code")
    assert [index for index, cell in enumerate(code) if "parameters" in tags(cell)] == [0]


@each_notebook
def test_a_notebook_was_not_left_in_the_middle(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in cells(path, "code"):
        assert "".join(cell["source"]).strip(), "an empty cell"
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"
            assert not FOLDER.search(json.dumps(output))


@each_notebook
def test_outputs_are_kept_exactly_where_they_are_compared(path):
    """``make outputs`` sees to it; nbval refuses an output without an execution count."""
    for cell in cells(path, "code"):
        compared = "nbval-check-output" in tags(cell)
        assert bool(cell["outputs"]) == compared, "".join(cell["source"])
        assert not compared or cell["execution_count"] is not None, "".join(cell["source"])


@each_notebook
def test_every_figure_has_a_name_and_a_caption(path):
    """The alternative text is seen in the built page, where the browser test looks for it."""
    for cell in cells(path, "code"):
        shown = cell["metadata"].get("mystnb", {})
        if "plt.show(" in "".join(cell["source"]) or "\nshow(" in "".join(cell["source"]):
            assert "figure" in shown, "".join(cell["source"])
        if "figure" in shown:
            assert shown["figure"]["name"].startswith("fig-")
            assert len(shown["figure"]["caption"].split()) >= 3


@each_notebook
def test_nothing_but_its_answer_follows_a_prompt(path):
    """The book folds what stands between a prompt and the ``answer-end`` of its section, and folds no other answer."""
    text = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    marks = re.findall(r"^(?:## |```\{admonition\} Predict$|:::\{predict\}|:::\{answer-end\}$)", text, re.MULTILINE)
    prompts = [mark for mark in marks if "predict" in mark.lower()]
    assert [marks[at + 1] for at, mark in enumerate(marks) if mark in prompts] == [":::{answer-end}"] * len(prompts)
    assert marks.count(":::{answer-end}") == len(prompts)
    assert not [cell["id"] for cell in cells(path, "code") if {"hide-output", "hide-cell"} & set(tags(cell))]
    assert "Show the answer" not in text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_picture_of_a_page_has_alternative_text(path):
    text = path.read_text(encoding="utf-8")
    for _, options in re.findall(r"^(`{3,}|:{3,})\{(?:figure|image)\}(.*?)^\1", text, re.MULTILINE | re.DOTALL):
        assert re.search(r"^:alt: \S+ \S+ \S+", options, re.MULTILINE), options
    assert "![](" not in text


def test_the_api_reference_holds_every_public_module():
    files = [path.relative_to(ROOT) for path in (ROOT / "epimlib").rglob("[a-z]*.py")]
    there = {".".join(path.with_suffix("").parts) for path in files} - {"epimlib.cli"}
    pages = "".join(path.read_text(encoding="utf-8") for path in PAGES if path.stem.startswith("api_"))
    assert set(re.findall(r"automodule:: (\S+)", pages)) == there


@pytest.fixture(scope="module")
def built():
    if not (HTML / "index.html").is_file():
        pytest.skip("the book is not built here: run make book")
    return {path: path.read_text(encoding="utf-8") for path in HTML.rglob("*.html") if "_static" not in path.parts}


class Tables(HTMLParser):
    """Collects the tables of a page that pandas made, as rows of texts."""

    def __init__(self):
        super().__init__()
        self.tables, self.inside, self.cell = [], False, False

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.inside = "dataframe" in (dict(attrs).get("class") or "")
            self.tables += [[]] * self.inside
        elif self.inside and tag == "tr":
            self.tables[-1] = [*self.tables[-1], []]
        elif self.inside and tag in ("th", "td"):
            self.tables[-1][-1].append("")
            self.cell = True

    def handle_endtag(self, tag):
        self.inside, self.cell = self.inside and tag != "table", self.cell and tag not in ("th", "td")

    def handle_data(self, data):
        if self.inside and self.cell:
            self.tables[-1][-1][-1] += data.strip()


def sums(table: list[list[str]]) -> list[list[str]]:
    """Return the columns above a last row *sum*, or the rows before a last column *sum*, each with its sum."""
    if "sum" in table[0]:
        table = [list(column) for column in zip(*table, strict=True)]
    if table[-1][0] != "sum":
        return []
    body = [row for row in table if len(row) == len(table[-1])][1:]
    return [list(column) for column in zip(*body, strict=True)][1:]


def test_parts_that_are_shown_add_up(built):
    """Of every table with a sum, that of latencies in chapters 6 and 11 among them, but for the digits not shown."""
    found = set()
    for path, text in built.items():
        parser = Tables()
        parser.feed(text)
        for column in (column for table in parser.tables for column in sums(table)):
            *parts, total = [cell.replace(",", "") for cell in column]
            if total:
                digits = max(len(number.partition(".")[2]) for number in (*parts, total))
                added = sum(float(part or 0) for part in parts)
                assert abs(added - float(total)) <= len(column) * 0.5 * 10**-digits, (path.name, column)
                found.add(path.stem)
    assert found >= {"06_cost", "11_search"}


class Prompts(HTMLParser):
    """Collects, for every prompt, the numbers that its section shows before, and those glued into its answer."""

    def __init__(self):
        super().__init__()
        self.found, self.seen, self.folds, self.glued, self.asked = [], "", [], 0, False

    def handle_starttag(self, tag, attrs):
        classes = (dict(attrs).get("class") or "").split()
        if tag == "h2":
            self.seen, self.asked = "", False
        elif tag == "details":
            self.folds.append("answer" if "sd-dropdown" in classes and self.asked and not self.folds else "other")
            if self.folds == ["answer"]:  # what the prompt itself names is no answer
                self.found[-1][0] -= numbers(self.seen.rpartition("Predict")[2])
        elif tag == "span":
            self.glued += bool(self.glued) or "pasted-text" in classes

    def handle_endtag(self, tag):
        if tag == "details" and self.folds.pop() == "answer":
            self.asked = False
        self.glued -= tag == "span" and self.glued > 0

    def handle_data(self, data):
        if not self.folds:
            self.seen += f" {data}"
            if data == "Predict":
                self.asked = True
                self.found.append([numbers(self.seen), set()])
        elif self.glued and self.asked and self.folds[0] == "answer":
            self.found[-1][1] |= numbers(data)


def numbers(text: str) -> set[str]:
    """Return the numbers of a text that have three digits or more, and so are hardly there by chance."""
    found = re.findall(r"(?<![\w-])\d[\d,]*(?:\.\d+)?", text)
    return {number for number in found if len(re.sub(r"\D", "", number)) >= 3}


def test_no_prompt_stands_below_its_answer(built):
    shown, prompts = {}, 0
    for path, text in built.items():
        parser = Prompts()
        parser.feed(text[text.find("<article") :])
        prompts += len(parser.found)
        shown |= {
            (path.stem, at): both for at, (before, answer) in enumerate(parser.found) if (both := before & answer)
        }
    assert prompts > 70
    assert {prompt: both for prompt, both in shown.items() if both} == {}


def test_built_pages_load_nothing_from_another_host(built):
    loaded = r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//\S*"
    linked = r"<link\b[^>]*\bhref=[\"']?(?:https?:)?//\S*"
    for path, text in built.items():
        found = re.findall(loaded, text) + re.findall(linked, text)
        assert not found, f"{path.relative_to(HTML)}: {found}"


def test_every_chapter_is_built_and_its_source_can_be_downloaded(built):
    for name in contents():
        page = built[HTML / f"{name}.html"]
        suffix = ".ipynb" if (ROOT / f"{name}.ipynb").exists() else ".md"
        assert (HTML / "_sources" / f"{name}{suffix}").is_file()
        assert f"_sources/{name}{suffix}" in page


def test_built_pages_name_no_folder_of_the_machine(built):
    for path, text in built.items():
        assert not FOLDER.search(re.sub(r"https?://\S+", "", text)), path.relative_to(HTML)

"""Sphinx extension: the book as ePub and as PDF, with every figure, table and formula of the pages.

Outputs of cells are HTML: an SVG figure, or a table of pandas. A reader of ePub wants it as XML; on the way to PDF,
figures become files and tables become tables. Neither runs MathJax: in an ePub, formulas are MathML.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

from bs4 import BeautifulSoup, Tag
from docutils import nodes
from docutils.utils.math.latex2mathml import MathError, tex2mathml
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.transforms.post_transforms.images import ImageConverter

from epimlib import __version__

NAME = "epim"
BEFORE_CHOICE, AFTER_CHOICE = 3, 5
"""Priorities around that of MyST-NB, which chooses the kind of an output that the builder prefers."""


def to_pdf(source: Path, target: Path) -> None:
    """Convert an SVG file; what is missing for that is said in one sentence."""
    program = shutil.which("rsvg-convert")
    if program is None:
        raise ExtensionError("figures need rsvg-convert on their way into a PDF (Debian: librsvg2-bin)")
    subprocess.run([program, "--format", "pdf", "--output", target, source], check=True)


class FiguresAsPdf(ImageConverter):
    """Figures that are SVG files."""

    available = True
    conversion_rules: ClassVar = [("image/svg+xml", "application/pdf")]

    def is_available(self) -> bool:
        return True

    def convert(self, _from, _to) -> bool:
        to_pdf(Path(_from), Path(_to))
        return True


class OutputsForLatex(SphinxPostTransform):
    """Figures and tables of cells become what LaTeX can set."""

    default_priority = BEFORE_CHOICE
    formats = ("latex",)

    def run(self, **kwargs) -> None:
        for raw in list(self.document.findall(nodes.raw)):
            if raw.get("format") != "html":
                continue
            soup = BeautifulSoup(raw.astext(), "html.parser")
            found = [self.image(svg) for svg in soup.select("svg.plot")] or [*map(table, soup.select("table"))]
            if found:
                bundle = raw.parent.parent if raw.parent.get("mime_type") else raw
                bundle.replace_self(found)

    def image(self, svg: Tag) -> nodes.image:
        text = str(svg).replace("currentColor", "black")
        folder = Path(self.app.doctreedir, "figures")
        folder.mkdir(exist_ok=True)
        target = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.pdf"
        if not target.exists():
            target.with_suffix(".svg").write_text(text, encoding="utf-8")
            to_pdf(target.with_suffix(".svg"), target)
        self.env.images.add_file(self.env.docname, str(target))
        return nodes.image(uri=str(target), candidates={"*": str(target)}, alt=svg.get("aria-label", ""), width="100%")


def table(html: Tag) -> nodes.table:
    """Return a table of pandas as one of docutils; a cell that spans columns is followed by empty ones."""
    rows = []
    for row in html.select("tr"):
        cells = [cell for td in row.select("td, th") for cell in [td.get_text(" ", strip=True), *[""] * (span(td) - 1)]]
        rows.append((row.find("td") is None, cells))
    width = max(len(cells) for _, cells in rows)
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in range(width)), cols=width)
    for kind, is_head in ((nodes.thead, True), (nodes.tbody, False)):
        chosen = [cells + [""] * (width - len(cells)) for head, cells in rows if head == is_head]
        if chosen:
            group += kind("", *(nodes.row("", *map(entry, cells)) for cells in chosen))
    return nodes.table("", group, classes=["longtable"] if len(rows) > 25 else [])


def span(cell: Tag) -> int:
    return int(cell.get("colspan", 1))


def entry(text: str) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", text))


class OutputsForEpub(SphinxPostTransform):
    """The HTML of cells becomes XML."""

    default_priority = AFTER_CHOICE
    builders = ("epub",)

    def run(self, **kwargs) -> None:
        for raw in list(self.document.findall(nodes.raw)):
            if raw.get("format") == "html":
                soup = BeautifulSoup(raw.astext(), "html.parser")
                for style in soup.select("style, script, a[download]"):
                    style.decompose()
                raw[:] = [nodes.Text(soup.decode(formatter="minimal"))]


def mathml(self, node: nodes.Element) -> None:
    """Write a formula as MathML, or its TeX where docutils cannot read that."""
    block = isinstance(node, nodes.math_block)
    try:
        self.body.append(
            tex2mathml(node.astext(), as_block=block).replace("&ApplyFunction;", "\u2061")
        )  # no entity of XML
    except MathError:
        self.body.append(f"<code>{self.encode(node.astext())}</code>")
    raise nodes.SkipNode


def name_files(app, config) -> None:
    """Name the files, and what an ePub must say of itself."""
    config.project = config.html_title
    config.version = config.release = __version__
    config.epub_basename = NAME
    config.latex_documents = [(config.master_doc, f"{NAME}.tex", config.html_title, config.author, "jupyterBook")]


def use_common_fonts(app, error) -> None:
    """Take letters that every TeX has in the place of those of a large package of fonts, which the class asks for."""
    document = Path(app.outdir, "jupyterBook.cls")
    if error is None and app.builder.name == "latex" and document.is_file():
        text = document.read_text(encoding="utf-8")
        text = text.replace(r"\RequirePackage{bbm}", r"\RequirePackage{amssymb}").replace(r"\mathbbm", r"\mathbb")
        document.write_text(text, encoding="utf-8")


def setup(app):
    app.add_post_transform(FiguresAsPdf)
    app.add_post_transform(OutputsForLatex)
    app.add_post_transform(OutputsForEpub)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
    app.add_config_value("epub_math_renderer", "mathml", "html")
    app.connect("build-finished", use_common_fonts)
    app.connect("config-inited", name_files, priority=950)  # after the table of contents has named the first page
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

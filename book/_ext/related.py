"""Sphinx extension: the tables of the page of related systems are written from their claims and the records."""

from pathlib import Path

from constants import table

from epimlib.lab.claims import DATA, Verdict, judge, read_claims

PAGE = "book/related"
CLAIMS = DATA / "related.yaml"


def append_tables(app, docname, source):
    """Append a table of the claims with their statuses, and one of the numbers that are related to them."""
    if docname == PAGE:
        verdicts = judge(read_claims(CLAIMS))
        head, *rows = claims(verdicts)
        source[0] += f":::{{table}}\n:class: sentences\n\n{table(head, rows)}:::\n"  # book.css stacks it on a phone
        source[0] += "\n## Numbers behind the table\n\n"
        source[0] += "None of them decides about a claim: each was found with another machine, network or data set.\n\n"
        head, *rows = numbers(verdicts)
        source[0] += table(head, rows)


def claims(verdicts: list[Verdict]) -> list[list[str]]:
    """Return head and rows of the table of claims."""
    head = ["system", "its abstract says", "status", "what was done here, and what was not", "chapter"]
    return [head, *([system(v), v.claim.text, v.status, v.why, chapter(v)] for v in verdicts)]


def numbers(verdicts: list[Verdict]) -> list[list[str]]:
    """Return head and rows of the table of related numbers."""
    head = ["system", "number", "ours", "compared with"]
    return [head, *([v.claim.name, f.check.what, str(f), f.check.demand] for v in verdicts for f in v.related)]


def system(verdict: Verdict) -> str:
    """Return the name of a system with its citation."""
    return f"{verdict.claim.name} {{cite}}`{verdict.claim.cite}`"


def chapter(verdict: Verdict) -> str:
    """Return a link to the chapter of a claim; one that is not written yet has none."""
    page = verdict.claim.page
    return f"{{doc}}`../{page}`" if Path(DATA.parent, f"{page}.ipynb").is_file() else "this page only"


def setup(app):
    app.connect("source-read", append_tables)
    # Read the page in every build: it follows files that Sphinx does not know it depends on.
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: [PAGE])
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""Sphinx extension: numbers of committed records in the text of pages that execute nothing.

The role ``{metric}`13_headline headline_factor .2f` `` is the metric of ``data/results/13_headline/quick.json``, and
``13_headline/full`` that of the full profile. The format at the end may be missing. A name that no record has is a
warning of the build, and so an error.
"""

from pathlib import Path

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from epimlib.lab.records import RunRecord

RESULTS = Path(__file__).parents[2] / "data" / "results"


def file(record: str) -> Path:
    """Return the file of a record: ``NOTEBOOK`` or ``NOTEBOOK/PROFILE``."""
    return RESULTS / f"{record if '/' in record else f'{record}/quick'}.json"


def metric(text: str) -> str:
    """Return the number that a role asks for, formatted.

    Args:
        text: of the role: record, name and perhaps a format.

    Raises:
        ValueError: in one sentence, if there is no such record or metric, or the format does not fit it.
    """
    record, name, form = (*text.split(), "")[:3]
    if not file(record).is_file():
        raise ValueError(f"record must be one of data/results, got {record!r}")
    metrics = RunRecord.load(file(record)).metrics
    if name not in metrics:
        raise ValueError(f"metric must be one of the record {record}, got {name!r}")
    return format(metrics[name], form)


class Metric(SphinxRole):
    """``{metric}`` as a role."""

    def run(self) -> tuple[list[nodes.Node], list]:
        try:
            value = metric(self.text)
        except ValueError as error:
            logging.getLogger(__name__).warning("metric %r: %s", self.text, error, location=self.get_location())
            return [], []
        self.env.note_dependency(file(self.text.split()[0]))
        return [nodes.Text(value)], []


def setup(app):
    app.add_role("metric", Metric())
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""Fail if a test was skipped for any other reason than a missing accelerator: skipped.py REPORT.xml."""

import sys
import xml.etree.ElementTree as ElementTree


def unexcused(report: str) -> list[str]:
    """Return one line for each skipped test of a JUnit report whose reason does not name the accelerator."""
    cases = ElementTree.parse(report).iter("testcase")
    skips = [(case, skip.get("message", "")) for case in cases for skip in case.iter("skipped")]
    return [
        f"{case.get('classname')}::{case.get('name')}: {reason}"
        for case, reason in skips
        if not reason.startswith("no accelerator")
    ]


if __name__ == "__main__":
    lines = unexcused(sys.argv[1])
    if lines:
        sys.exit("Skipped for another reason than a missing accelerator:\n" + "\n".join(lines))

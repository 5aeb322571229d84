"""The file for a USB stick: the book opens from it, and a notebook runs in it."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag
from zipfile import ZipFile

import pytest

from tests.test_notebooks import load

bundle = load("book/bundle.py")
RUN = "import sys; from epimlib.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder of a bundle of this book."""
    if not (bundle.HTML / "index.html").is_file():
        pytest.skip("the book is not built here: run make book")
    folder = tmp_path_factory.mktemp("stick")
    assert bundle.main(str(folder / "epim.zip")) == 0
    with ZipFile(folder / "epim.zip") as packed:
        packed.extractall(folder)
    (folder / "epim.zip").unlink()
    (root,) = folder.iterdir()
    return root


class Links(HTMLParser):
    """What a page refers to below its own folder."""

    def __init__(self, text: str):
        super().__init__()
        self.found = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        """Keep the addresses of links, pictures, scripts and styles."""
        for name, value in attributes:
            if name in ("href", "src") and value and ":" not in value and not value.startswith("#"):
                self.found.add(unquote(urldefrag(value)[0].partition("?")[0]))


@pytest.mark.parametrize("page", ["index.html", "_build/html/notebooks/03_mapping.html", "_build/html/book/index.html"])
def test_what_a_page_refers_to_is_in_the_bundle(unpacked, page):
    file = unpacked / page
    found = Links(file.read_text(encoding="utf-8")).found
    assert found
    assert [name for name in found if name and not (file.parent / name).is_file()] == []


def test_a_notebook_runs_in_the_bundle(unpacked):
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-c", RUN, "run", "03_mapping", "-p", "network=resnet18"]
    done = subprocess.run(command, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = unpacked / done.stdout.splitlines()[-1]
    assert (folder / "record.json").is_file()


def test_what_make_needs_is_in_the_bundle(unpacked):
    for name in ("Makefile", "constraints.txt", "_config.yml", "_toc.yml", ".ci/run", "data/claims.yaml", "tests"):
        assert (unpacked / name).exists(), name
    assert not (unpacked / ".git").exists()


def test_without_a_book_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundle, "HTML", tmp_path / "none")
    assert bundle.main(str(tmp_path / "epim.zip")) == 1
    assert "run make book" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_outside_a_clone_nothing_is_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("<p>A book", encoding="utf-8")
    monkeypatch.setattr(bundle, "HTML", tmp_path / "html")
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(Path(tmp_path).parent))
    assert bundle.main(str(tmp_path / "epim.zip")) == 1
    assert "needs a clone" in capsys.readouterr().err
    assert not (tmp_path / "epim.zip").exists()

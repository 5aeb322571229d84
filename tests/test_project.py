"""The files around the library agree with each other, and the README keeps its word."""

import ast
import contextlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import epimlib
from epimlib.lab.records import RunRecord

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
INSTALLED = ["book", "spiking", "test"]  # by make; sweep is for clusters
REQUIREMENTS = [
    Requirement(line) for line in (*PROJECT["dependencies"], *(line for name in INSTALLED for line in EXTRAS[name]))
]
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9A-Za-z.]+)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pins() -> dict[str, str]:
    """Return the version of every package in constraints.txt; any other line than ``name==version`` fails."""
    lines = [line for line in read("constraints.txt").splitlines() if not line.startswith("#")]
    found = [PIN.fullmatch(line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    names = [canonicalize_name(match[1]) for match in found]
    assert len(names) == len(set(names)), "a package is pinned twice"
    return dict(zip(names, (match[2] for match in found), strict=True))


# Dependencies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", [*REQUIREMENTS, *map(Requirement, EXTRAS["sweep"])], ids=lambda r: r.name)
def test_every_requirement_is_bounded_and_its_pin_lies_within(requirement):
    operators = {bound.operator for bound in requirement.specifier}
    assert operators == {">=", "<"}, f"{requirement} must have a lower and an upper bound"
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_everything_that_is_installed_with_the_project_is_pinned():
    """Walks the requirements of the requirements, as this machine has them."""
    from_torch = ("nvidia-", "cuda-", "triton")  # a CUDA torch pins these itself, and a CPU torch has none
    pinned, seen, queue = pins(), set(), list(REQUIREMENTS)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if (name, *sorted(requirement.extras)) in seen or name.startswith(from_torch):
            continue
        seen.add((name, *sorted(requirement.extras)))
        distribution = importlib.metadata.distribution(name)
        assert name in pinned, f"{name} is not in constraints.txt"
        installed = Version(distribution.version)
        assert installed.public == pinned[name], f"{name} {installed} is installed, {pinned[name]} is pinned"
        for line in distribution.requires or []:
            child = Requirement(line)
            extras = requirement.extras or {""}
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                queue.append(child)


@pytest.mark.parametrize(
    ("folders", "declared"),
    [(["epimlib"], PROJECT["dependencies"]), (["tests", "book", "benchmarks", "notebooks"], REQUIREMENTS)],
    ids=["library", "everything else"],
)
def test_what_is_imported_is_declared(folders, declared):
    allowed = {canonicalize_name(Requirement(str(line)).name) for line in declared} | {PROJECT["name"]}
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    own = {"tests", *sys.stdlib_module_names, *(path.stem for path in files)}
    owners = importlib.metadata.packages_distributions()
    imported = {top: owners[top] for top in (name.partition(".")[0] for name in names) if top not in own}
    assert imported
    undeclared = {top: found for top, found in imported.items() if not allowed & set(map(canonicalize_name, found))}
    assert undeclared == {}


def test_environment_yml_takes_its_packages_and_versions_from_the_other_two():
    environment = yaml.safe_load(read("environment.yml"))
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge"]
    python, pip, section = environment["dependencies"]
    assert Requirement(python).specifier == Requirement(f"python{PROJECT['requires-python']}").specifier
    assert pip == "pip"
    assert section == {"pip": ["-c constraints.txt", f"-e .[{','.join(INSTALLED)}]"]}


def test_the_makefile_installs_what_environment_yml_installs():
    assert f'-c constraints.txt -e ".[{",".join(INSTALLED)}]"' in read("Makefile")


# Licence, citation, address -----------------------------------------------------------------------------


def test_code_is_mit_and_prose_is_cc_by():
    assert PROJECT["license"] == "MIT"
    assert PROJECT["license-files"] == ["LICENSE", "LICENSE-prose"]
    assert read("LICENSE").startswith("MIT License\n")
    assert "https://creativecommons.org/licenses/by/4.0/" in read("LICENSE-prose")


def test_the_citation_names_this_version_and_prefers_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == epimlib.__version__
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    entry = re.search(r"@inproceedings\{epim,.*?\n\}", read("book/references.bib"), re.DOTALL)[0]
    assert paper["doi"] in entry
    assert all(f"{author['family-names']}, {author['given-names']}" in entry for author in paper["authors"])
    assert f"## {epimlib.__version__} " in read("CHANGELOG.md")


def test_the_repository_has_one_address_or_none():
    address = yaml.safe_load(read("_config.yml"))["repository"]["url"]
    files = [path for pattern in ("*.*", "book/*", "notebooks/*.ipynb") for path in ROOT.glob(pattern)]
    found = {
        match
        for path in files
        if path.is_file()
        for match in re.findall(r"https://github\.com/[\w-]+/epimlib", path.read_text(encoding="utf-8"))
    }
    assert found <= {address}


# README -------------------------------------------------------------------------------------------------


def test_the_example_of_the_readme_is_short_and_prints_what_it_shows():
    code, shown = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", read("README.md"), re.DOTALL).groups()
    assert len(code.strip().splitlines()) <= 12
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue() == shown


def test_links_of_the_readme_lead_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#\s]+)\)", read("README.md")) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


# Style and CI -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(command):
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "."]
    result = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("reason", "code"), [("no accelerator here", 0), ("no Chromium or Chrome is installed here", 1), ("", 1)]
)
def test_ci_excuses_a_skip_only_for_a_missing_accelerator(tmp_path, reason, code):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.test_a" name="test_b"/>'
        f'<testcase classname="tests.test_a" name="test_c"><skipped message="{reason}"/></testcase>'
        "</testsuite></testsuites>"
    )
    command = [sys.executable, ROOT / ".ci" / "skipped.py", report]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == code
    assert ("tests.test_a::test_c" in result.stderr) == bool(code)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return a folder in which a wheel is installed that was built from what Git tracks."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 5_000_000
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    return site


def test_a_wheel_holds_every_room_and_its_presets(site, tmp_path):
    there = {path.parent.name for path in (ROOT / "epimlib").glob("*/__init__.py")}
    assert {path.parent.name for path in (site / "epimlib").glob("*/__init__.py")} == there
    paths = [path for path in site.rglob("[a-z]*.py") if "project" not in path.parts]
    modules = [".".join(path.relative_to(site).with_suffix("").parts) for path in paths]
    program = f"""
import importlib, epimlib
for module in {[module for module in modules if module.startswith("epimlib.")]!r}:
    importlib.import_module(module)
print(epimlib.__file__, *[epimlib.Hardware.preset(name).name for name in ("default", "isaac", "mnsim-2024")])
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(site / "epimlib" / "__init__.py"), "default", "isaac", "mnsim-2024"]


def test_without_a_clone_notebooks_and_data_come_from_the_wheel(site, tmp_path):
    """In an empty folder, as after ``pip install``."""
    project = site / "epimlib" / "project"
    held = {path.relative_to(project) for path in project.rglob("*.*") if path.suffix != ".pyc"}
    files = ("notebooks/*.ipynb", "data/**/*.*", "book/figures/*", "tests/reference/*", "tests/mnsim_reference.py")
    there = {path.relative_to(ROOT) for pattern in (*files, "tests/__init__.py") for path in ROOT.glob(pattern)}
    assert held == {path for path in there if path.parts[:2] != ("data", "cache")}
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def epim(*arguments: str) -> str:
        command = [sys.executable, "-c", "import sys; from epimlib.cli import main; sys.exit(main())", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "\n20_simulator " in epim("list")
    assert epim("show", "03").startswith("03_mapping: ")
    out = epim("run", "03_mapping", "-p", "network=resnet18", "-p", "max_bits=8")
    record = RunRecord.load(tmp_path / out.splitlines()[-1])
    assert (record.parameters["network"], record.commit, record.dirty) == ("resnet18", None, None)
    assert record.metrics["mapping_cells"] == 256**2
    epim("run", "20")  # which imports from tests
    assert epim("runs", "network=resnet18").count("03_mapping") == 2

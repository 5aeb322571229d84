"""The page *Explore*: its table, the page in a browser, and Python in the page.

Python is in the page where ``make explorer`` and then ``make book`` ran. Its tests are there then; otherwise another
one takes their place, and none is skipped.
"""

import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
from base64 import b64decode
from pathlib import Path

import nbformat
import pytest

from epimlib import Design, Hardware, Workload, evaluate
from tests import test_browser
from tests.test_notebooks import load

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))  # its files import each other, as Sphinx lets them
explore, explore_answer = load("book/_ext/explore.py"), load("book/_ext/explore_answer.py")
explore_table, explore_files = explore.explore_table, explore.explore_files
STATIC = test_browser.HTML / "_static"
WITH_PYTHON = (STATIC / "explore_pyodide.js").is_file()
QUESTIONS = 100
"""Random questions to Python in the page."""
PANELS = ["03_mapping", "05_epitome_network", "06_cost", "08_reuse", "13_headline", "18_networks", "19_sensitivity"]
UNITS = {"latency": 1e3, "energy": 1e3, "area": 1e6, "utilization": 100, "factor": 1}
site, browser, tab = test_browser.site, test_browser.browser, test_browser.tab


def draw(number: int, seed: int) -> list[dict]:
    """Return random questions that the table holds."""
    chance = random.Random(seed)
    return [{name: chance.choice(values) for name, values in explore_table.AXES.items()} for _ in range(number)]


def ask(question: dict):
    """Return the report of a question, without the code of the page, or the sentence of a refusal."""
    workload, side = Workload.load(question["network"]), question["crossbar"]
    cell = {"crossbar.rows": side, "crossbar.cols": side, "crossbar.cell_bits": question["cell_bits"]}
    hardware = Hardware.preset(question["preset"]).replace(cell)
    try:
        design = {}
        if question["design"] == "epitome":
            design = Design.uniform(workload, question["rows"], question["cols"], question["wrap"])
        return evaluate(workload, hardware, design, question["bits"], question["activation_bits"])
    except (TypeError, ValueError) as error:
        return str(error)


@pytest.fixture(scope="module")
def script() -> str:
    return explore.write_table(ROOT / "_build" / "explore").read_text("utf-8")


def unpacked(script: str) -> dict:
    """Return what a script with one packed text holds."""
    return json.loads(gzip.decompress(b64decode(script.split('"')[1])))


@pytest.fixture(scope="module")
def table(script) -> dict:
    return unpacked(script)


def tabulated(table: dict, question: dict) -> dict:
    """Return what the table holds of a question: as the script of the page reads it, in Python."""

    def place(names, number=0):
        for name in names:
            number = number * len(table["axes"][name]) + table["axes"][name].index(question[name])
        return number

    keys = table["layers"][question["network"]]["keys"]
    design = len(keys) - 1 if question["design"] == "dense" else place(["rows", "cols", "wrap"])
    column = place(["network"]) * len(keys) + design
    accelerator = place(["preset", "crossbar", "cell_bits", "bits", "activation_bits"])
    rows = {metric: values["rows"][values["of"][accelerator]] for metric, values in table["values"].items()}
    found = {name: row[column] for name, row in rows.items() if not name.startswith("layer ")}
    parts = [rows[f"layer {name}"] for name in ("crossbars", "utilization", "latency", "energy")]
    return found | {"layers": [[row[key] for row in parts] for key in keys[design]]}


def test_500_random_points_of_the_table_are_those_of_evaluate(table):
    refused = 0
    for question in draw(500, seed=19):
        found, report = tabulated(table, question), ask(question)
        if isinstance(report, str):
            refused += 1
            assert found["refused"] == report
            continue
        assert found["refused"] is None
        assert found["crossbars"] == report.crossbars
        for metric, unit in UNITS.items():
            assert found[metric] == pytest.approx(float(f"{unit * getattr(report, metric):.4g}"), rel=1e-12), question
        after = sum(layer.latency for layer in report.layers) * 1e3
        assert found["sequential"] == pytest.approx(float(f"{after:.4g}"), rel=1e-12)
        weighted = [layer for layer in report.layers if layer.kind in ("conv", "linear")]
        for row, layer in zip(found["layers"], weighted, strict=True):
            latency, energy, _, crossbars = layer.sums
            assert row[0] == crossbars
            assert row[1:] == pytest.approx([100 * layer.utilization, 1e3 * latency, 1e3 * energy], rel=5.1e-3)
    assert 0 < refused < 100


def test_the_table_is_small(script):
    assert len(script) < 1_500_000


def test_a_rebuild_computes_the_table_only_if_what_it_depends_on_changed(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(explore, "ROOT", tmp_path)
    monkeypatch.setattr(explore, "READ", ["*.py"])
    monkeypatch.setattr(explore_table, "table", lambda: calls.append(1) or {"axes": {}})
    (tmp_path / "cost.py").write_text("1")
    first = explore.write_table(tmp_path / "out").read_text()
    assert explore.write_table(tmp_path / "out").read_text() == first
    assert len(calls) == 1
    (tmp_path / "cost.py").write_text("2")
    assert explore.write_table(tmp_path / "out").read_text() != first
    assert len(calls) == 2


def test_the_table_depends_on_every_file_that_an_answer_reads():
    program = (
        "import sys; sys.path.insert(0, 'book/_ext'); import explore_table as t; t.TITLES = ['resnet18']\n"
        "t.rows_of({'preset': 'default', 'crossbar': 256})\n"
        "own = {n: m.__file__ for n, m in sys.modules.items() if n.startswith(('epimlib', 'explore_'))}\n"
        "print(*own.values(), sep='\\n')"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    known = {path for pattern in explore.READ for path in ROOT.glob(pattern)}
    assert {Path(line).resolve() for line in result.stdout.splitlines()} <= {path.resolve() for path in known}


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("network=resnet50&rows=512", None),
        ("rows=513", "rows=513 is not in the table of Explore"),
        ("height=1", "height=1 is not in the table of Explore"),
        ("rows=", "rows= is not in the table of Explore"),
    ],
)
def test_a_link_with_another_question_than_those_of_the_table_is_a_warning_of_the_build(query, sentence):
    assert explore.unknown(query) == sentence


def test_the_defaults_are_choices():
    assert explore.DEFAULT.keys() == explore_table.AXES.keys()
    assert all(value in explore_table.AXES[name] for name, value in explore.DEFAULT.items())
    assert {name for names in explore.FORM.values() for name in names} == explore_table.AXES.keys()


@pytest.mark.parametrize("name", PANELS)
def test_a_chapter_ends_with_a_question(name):
    last = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells[-1]
    query = last.source.split(" <")[1].split(">")[0]
    assert "{explore}`" in last.source
    assert explore.unknown(query) is None


def test_costs_need_numpy_alone():
    hidden = ["scipy", "pandas", "matplotlib", "seaborn", "sklearn", "torch", "torchvision", "timm", "tqdm"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
        "import epimlib, epimlib.search\nfrom epimlib import *\n"
        "w = Workload.load('resnet18')\n"
        "print(evaluate(w, Hardware.preset('default'), Design.uniform(w, 512, 256)).crossbars)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(result.stdout) > 0


class TestFiles:
    """Python for the page: what ``make explorer`` does, without a network."""

    @pytest.fixture
    def sources(self, tmp_path, monkeypatch):
        """Files of other content with their own manifest, a folder for them, and their sources."""
        files = {name: name.encode() for name in explore_files.FILES}
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        with tarfile.open(tmp_path / "core.tgz", "w:gz") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        (tmp_path / "wheel").write_bytes(files[explore_files.WHEEL])
        monkeypatch.setattr(explore_files, "FILES", hashes)
        monkeypatch.setattr(explore_files, "CORE", str(tmp_path / "core.tgz"))
        return tmp_path

    def test_what_was_fetched_is_kept_and_not_fetched_again(self, sources):
        folder = sources / "cache"
        assert "was not fetched" in explore_files.trouble(folder)
        explore_files.fetch(folder, str(sources / "wheel"))
        assert explore_files.trouble(folder) is None
        explore_files.fetch(folder, "nowhere")

    @pytest.mark.parametrize("name", ["wheel", "core.tgz"])
    def test_another_file_than_that_of_the_manifest_is_refused_and_nothing_kept(self, sources, monkeypatch, name):
        if name == "wheel":
            (sources / name).write_bytes(b"another")
        else:
            monkeypatch.setitem(explore_files.FILES, "pyodide.js", "0" * 64)
        with pytest.raises(ValueError, match=r"has the SHA-256 \w{64}, not \w{64}$"):
            explore_files.fetch(sources / "cache", str(sources / "wheel"))
        assert not (sources / "cache").exists()

    def test_a_broken_package_is_one_sentence(self, sources):
        (sources / "core.tgz").write_bytes(b"no archive")
        with pytest.raises(ValueError, match="is not the package pyodide"):
            explore_files.fetch(sources / "cache", str(sources / "wheel"))

    def test_a_changed_file_in_the_cache_is_seen(self, sources):
        explore_files.fetch(sources / "cache", str(sources / "wheel"))
        (sources / "cache" / "pyodide.js").write_bytes(b"changed")
        assert "pyodide.js has the SHA-256" in explore_files.trouble(sources / "cache")

    def test_the_command_ends_with_one_sentence_and_exit_code_1(self, tmp_path):
        (tmp_path / "book" / "_ext").mkdir(parents=True)  # an own folder: nothing was fetched for it
        program = tmp_path / "book" / "_ext" / "explore_files.py"
        program.write_text((ROOT / "book/_ext/explore_files.py").read_text("utf-8"), "utf-8")
        (tmp_path / "other.whl").write_bytes(b"another")
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        for source, sentence in ("other.whl", "has the SHA-256"), ("none.whl", "No such file"):
            command = [sys.executable, str(program), source]
            result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
            assert (result.returncode, result.stdout) == (1, "")
            assert result.stderr.startswith("explorer: ")
            assert sentence in result.stderr
            assert result.stderr.count("\n") == 1
        assert not (tmp_path / "data").exists()

    def test_without_python_no_script_of_it_is_left(self, tmp_path):
        for name in ("explore_pyodide.js", "explore_library.js"):
            (tmp_path / name).write_text("stale")
        explore.write_python(tmp_path, fetched=tmp_path / "nothing")
        assert list(tmp_path.iterdir()) == []

    def test_without_python_the_page_says_why(self, monkeypatch, tmp_path):
        monkeypatch.setattr(explore_files, "FOLDER", tmp_path)
        assert "<button" not in explore.engine(tmp_path)
        assert "was not fetched" in explore.engine(tmp_path)

    def test_what_answers_in_the_page_is_the_checkout(self):
        """Every module that an answer imports, and no other content than that of the files."""
        for path, text in explore.sources().items():
            assert text.encode() == (ROOT / path).read_bytes()
        assert {path.split("/")[0] for path in explore.sources()} == {"epimlib", "data", "book"}


def rounded(answer):
    """Return an answer with twelve digits of every number."""
    if isinstance(answer, dict):
        return {name: rounded(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [rounded(value) for value in answer]
    return float(f"{answer:.12g}") if isinstance(answer, float) else answer


@pytest.fixture(scope="module")
def page(browser):
    """The built page, opened from a folder, in which Python was started."""
    context = browser.new_context()
    tab = context.new_page()
    tab.requests, tab.trouble = [], []
    tab.on("request", lambda request: tab.requests.append(request.url))
    tab.on("pageerror", lambda error: tab.trouble.append(str(error)))
    tab.goto((test_browser.HTML / "book" / "explore.html").as_uri() + "#crossbar=100")
    tab.wait_for_function("document.querySelector('#explore-says').textContent.startsWith('Of the link')")
    tab.click("#explore-start")
    tab.wait_for_function("document.querySelector('#explore').compute", timeout=300_000)
    tab.wait_for_function("location.hash.includes('crossbar=100')", timeout=60_000)
    yield tab
    context.close()


if WITH_PYTHON:

    @pytest.mark.browser
    class TestPython:
        """Python in the page."""

        def test_the_question_of_the_link_is_answered_now(self, page):
            report = ask(explore.DEFAULT | {"crossbar": 100})
            page.wait_for_function(
                f"document.querySelector('#explore-says').textContent.includes('{report.crossbars:,}')"
            )
            assert page.inner_text(".explore-card[data-metric=crossbars] strong") == f"{report.crossbars:,}"

        def test_answers_are_those_of_this_python_in_every_digit(self, page):
            chance = random.Random(21)
            ranges = {"crossbar": (64, 600), "cell_bits": (1, 8), "bits": (2, 16), "activation_bits": (1, 16)}
            ranges |= {"rows": (64, 4096), "cols": (16, 1024), "wrap": (1, 8)}
            questions = draw(QUESTIONS, seed=21)
            for question in questions:
                question |= {name: chance.randint(*ends) for name, ends in ranges.items()}
                if question["design"] == "dense":  # what the rules of MNSIM refuse otherwise
                    question["preset"] = chance.choice(["default", "isaac", "mnsim-2021", "mnsim-2024"])
            presets = {path.stem: Hardware.preset(path.stem) for path in explore.PRESETS}
            known = explore_answer.asker(json.dumps({name: h.to_dict() for name, h in presets.items()}))
            compute = "async (all) => { const found = []; for (const q of all) "
            compute += "found.push(await document.querySelector('#explore').compute(q)); return found; }"
            expected = [json.loads(known(json.dumps(question))) for question in questions]
            assert 0 < sum("refused" in answer for answer in expected) < QUESTIONS / 2
            for start in range(0, QUESTIONS, 10):
                found = page.evaluate(compute, questions[start : start + 10])
                for question, one, other in zip(questions[start:], found, expected[start:], strict=False):
                    if question["preset"].startswith("mnsim"):  # whose rules sum arrays, in an order of the processor's
                        one, other = rounded(one), rounded(other)
                    assert one == other, question

        @pytest.mark.parametrize(("name", "value"), [("bits", "0"), ("rows", ""), ("wrap", "some"), ("cols", "-1")])
        def test_a_refusal_is_the_sentence_of_the_library(self, page, name, value):
            old = page.input_value(f"[name={name}]")
            page.fill(f"[name={name}]", value)
            page.keyboard.press("Tab")
            page.wait_for_function("document.querySelector('#explore-says').textContent.startsWith('No answer')")
            number = int(value) if value.lstrip("-").isdigit() else value
            sentence = ask(explore.DEFAULT | {name: number})
            assert page.inner_text("#explore-says") == f"No answer: {sentence}."
            page.fill(f"[name={name}]", old)
            page.keyboard.press("Tab")
            page.wait_for_function("!document.querySelector('#explore-says').textContent.startsWith('No answer')")

        def test_the_page_holds_the_checkout(self):
            packed = unpacked((STATIC / "explore_library.js").read_text("utf-8"))
            assert packed["files"] == explore.sources()
            for name, data in packed["presets"].items():
                assert Hardware.from_dict(data) == Hardware.preset(name)

        def test_nothing_was_asked_of_another_host(self, page):
            assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
            assert page.trouble == []

else:

    @pytest.mark.browser
    def test_a_page_without_python_has_no_button(tab, site):
        test_browser.visit(tab, f"{site}book/explore.html")
        assert tab.locator("#explore-start").count() == 0
        assert "make explorer" in tab.inner_text(".explore-engine")


@pytest.mark.browser
class TestPage:
    """The built page, opened from a local server."""

    def visit(self, tab, site, query=""):
        test_browser.visit(tab, f"{site}book/explore.html{'#' if query else ''}{query}")
        tab.wait_for_function("document.querySelector('#explore-says').textContent")

    def form(self, tab) -> dict:
        return tab.evaluate("() => Object.fromEntries(new FormData(document.querySelector('.explore-form')))")

    def shown(self, tab, metric, of="strong") -> str:
        return tab.inner_text(f".explore-card[data-metric={metric}] {of}")

    def test_it_shows_the_answers_of_the_table(self, tab, site, table):
        self.visit(tab, site)
        questions = draw(500, seed=20)
        answers = tab.evaluate("(all) => all.map(document.querySelector('#explore').tabulated)", questions)
        for question, answer in zip(questions, answers, strict=True):
            expected = tabulated(table, question)
            assert {**answer, "layers": [row[3:] for row in answer["layers"]]} == expected
        assert not tab.trouble

    def test_the_first_number_is_there_soon_after_the_page(self, browser, site):
        """In seconds of the processor, for other tests run on it: with the table, and without."""
        seconds = {}
        for name in ("explore", "parameters"):
            context = browser.new_context()
            tab = context.new_page()
            meter = context.new_cdp_session(tab)
            meter.send("Performance.enable", {"timeDomain": "threadTicks"})
            tab.goto(f"{site}book/{name}.html")
            tab.wait_for_load_state()
            if name == "explore":
                tab.wait_for_function("document.querySelector('#explore-says').textContent")
            found = {metric["name"]: metric["value"] for metric in meter.send("Performance.getMetrics")["metrics"]}
            seconds[name] = found["TaskDuration"]
            context.close()
        assert seconds["explore"] - seconds["parameters"] < 0.3, seconds

    def test_a_choice_changes_the_answer_and_a_link_brings_it_back(self, tab, site):
        self.visit(tab, site, "network=resnet18&crossbar=128")
        before = self.shown(tab, "crossbars")
        tab.select_option("[name=bits]", "3")
        assert self.shown(tab, "crossbars") != before
        assert self.shown(tab, "crossbars", ".explore-before") == f"before: {before}"
        report = ask(explore.DEFAULT | {"network": "resnet18", "crossbar": 128, "bits": 3})
        assert self.shown(tab, "crossbars") == f"{report.crossbars:,}"
        assert float(self.shown(tab, "energy")) == pytest.approx(1e3 * report.energy, rel=5.1e-4)
        text, form, address = tab.inner_text("#explore-says"), self.form(tab), tab.url
        tab.goto("about:blank")
        tab.goto(address)
        tab.wait_for_function("document.querySelector('#explore-says').textContent")
        assert (tab.inner_text("#explore-says"), self.form(tab), tab.url) == (text, form, address)
        assert not tab.trouble

    @pytest.mark.parametrize(
        ("query", "sentence"),
        [
            ("rows=1000", "Of the link, rows=1000 is not in the table, which has 256, 512, 1024, 2048."),
            ("height=3", "Of the link, there is no choice height."),
            ("bits=", "Of the link, bits= is not in the table, which has 3, 5, 9."),
        ],
    )
    def test_a_link_with_a_value_out_of_range_is_one_sentence(self, tab, site, query, sentence):
        self.visit(tab, site, query)
        assert tab.inner_text("#explore-says").startswith(sentence)
        assert self.form(tab)["rows"] == "1024"
        assert not tab.trouble

    def test_a_refusal_is_the_sentence_of_the_library_and_leaves_no_number(self, tab, site):
        question = explore.DEFAULT | {"network": "vit_tiny_patch16_224", "crossbar": 128, "design": "dense"}
        self.visit(tab, site, "network=vit_tiny_patch16_224&crossbar=128&design=dense")
        assert ask(question) in tab.inner_text("#explore-says")
        assert not any(tab.locator(".explore-card strong").all_inner_texts())

    def test_it_is_used_by_keyboard(self, tab, site):
        self.visit(tab, site)
        tab.focus("[name=network]")
        reached = []
        for _ in explore_table.AXES:
            reached.append(tab.evaluate("document.activeElement.name"))
            before = tab.inner_text("#explore-says")
            if reached[-1] != "design":  # which would switch the others off
                tab.keyboard.press("ArrowUp" if reached[-1] in ("bits", "activation_bits") else "ArrowDown")
                assert tab.inner_text("#explore-says") != before, reached
            tab.keyboard.press("Tab")
        assert reached == [name for names in explore.FORM.values() for name in names]

    def test_its_python_gives_the_answer(self, tab, site, capsys):
        self.visit(tab, site, "network=resnet18&bits=5&rows=512&wrap=2")
        exec(tab.inner_text(".explore-python"), {})
        assert f"{float(self.shown(tab, 'latency')):.4g}" in capsys.readouterr().out
        tab.select_option("[name=design]", "dense")
        exec(tab.inner_text(".explore-python"), {})
        assert f"{float(self.shown(tab, 'latency')):.4g}" in capsys.readouterr().out

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_fits_a_phone_and_a_screen_reader(self, tab, site, scheme):
        tab.set_viewport_size({"width": 390, "height": 800})
        tab.emulate_media(color_scheme=scheme)
        self.visit(tab, site, "network=resnet101&rows=2048")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert test_browser.barriers_of(tab) == []
        assert tab.get_attribute("#explore-says", "aria-live") == "polite"

    def test_it_opens_from_a_folder_and_asks_no_other_host(self, browser):
        context = browser.new_context()
        tab, requests = context.new_page(), []
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto((test_browser.HTML / "book" / "explore.html").as_uri())
        tab.wait_for_function("document.querySelector('#explore-says').textContent")
        assert self.shown(tab, "crossbars") == f"{ask(explore.DEFAULT).crossbars:,}"
        assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
        context.close()

    def test_without_javascript_it_says_what_to_do(self, browser, site):
        context = browser.new_context(java_script_enabled=False)
        tab = context.new_page()
        tab.goto(f"{site}book/explore.html")
        assert "needs JavaScript" in tab.inner_text("#explore noscript")
        assert "Workload.load" in tab.inner_text(".explore-python")
        context.close()

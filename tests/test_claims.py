"""Claims of the paper against run records, made by hand here and the committed ones."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from epimlib.lab import claims
from epimlib.lab.claims import Check, Claim, evidence, judge, read_claims, scoreboard
from epimlib.lab.notebooks import Notebook
from epimlib.lab.parameters import resolve
from epimlib.lab.records import RunRecord

ROOT = Path(__file__).parents[1]
CHECK = {
    "what": "factor [times]",
    "metric": "factor",
    "records": "headline/*.json",
    "configuration": "notebooks/13_headline.ipynb",
    "comparison": "at least",
    "value": 30.65,
}
CLAIM = {
    "name": "factor",
    "statement": 5,
    "where": "abstract",
    "text": "Crossbars fall by a factor.",
    "wording": "ours",
    "value": 30.65,
    "unit": "times",
    "value_from": "verbatim",
    "page": "notebooks/13_headline",
    "checks": [CHECK],
}


def record(folder: Path, name: str, parameters: dict | None = None, **metrics) -> Path:
    path = folder / name
    made = RunRecord("x", parameters or {}, {}, None, None, {}, "2026-01-01T00:00:00+00:00", 1.0, metrics)
    made.save(path)
    return path


def verdict(folder: Path, **changes) -> claims.Verdict:
    return judge([Claim.from_dict(CLAIM | changes)], folder)[0]


def with_check(**changes) -> dict:
    return {"checks": [CHECK | changes]}


class TestStatus:
    def test_a_claim_whose_check_holds_is_reproduced(self, tmp_path):
        record(tmp_path, "headline/quick.json", factor=30.7)
        found = verdict(tmp_path, why={"reproduced": "By our design."})
        assert found.status == "reproduced"
        assert found.findings[0].value == 30.7
        assert found.findings[0].records == ("headline/quick.json",)
        assert found.why == "By our design."

    def test_a_claim_without_a_number_is_at_most_consistent(self, tmp_path):
        without = {"value": None, "value_from": "unknown"}
        record(tmp_path, "headline/quick.json", factor=30.7)
        found = verdict(tmp_path, **without, why={"consistent, sign only": "Any factor would do."})
        assert found.status == "consistent, sign only"
        assert found.why == "Any factor would do."
        record(tmp_path, "headline/quick.json", factor=29.5)
        assert verdict(tmp_path, **without).status == "differs"

    def test_a_claim_whose_check_fails_differs_and_says_by_what(self, tmp_path):
        record(tmp_path, "headline/quick.json", factor=29.5)
        found = verdict(tmp_path, why={"differs": "The head is dense."})
        assert found.status == "differs"
        assert found.why == "factor [times] is 29.5, not at least 30.65. The head is dense."

    def test_a_claim_without_its_record_is_not_run(self, tmp_path):
        for folder in (tmp_path, tmp_path / "missing"):
            found = verdict(folder, why={"not run": "It takes a week."})
            assert found.status == "not run"
            assert found.findings[0].value is None
            assert found.findings[0].holds is None
            assert found.why == "There is no record `headline/*.json`. It takes a week."

    def test_a_claim_that_nothing_could_decide_cannot_be_checked(self, tmp_path):
        changes = {"checks": [], "value": None, "value_from": "unknown"}
        found = verdict(tmp_path, **changes, why={"cannot be checked": "The rivals are not named."})
        assert found.status == "cannot be checked"
        assert found.why == "The rivals are not named."

    def test_one_of_two_checks_without_record_is_enough_not_to_be_run(self, tmp_path):
        record(tmp_path, "headline/quick.json", factor=29.5)
        found = verdict(tmp_path, checks=[CHECK, CHECK | {"records": "imagenet/*.json"}])
        assert found.status == "not run"

    def test_one_of_two_checks_that_fails_is_enough_to_differ(self, tmp_path):
        record(tmp_path, "headline/quick.json", factor=40, latency=1.2)
        found = verdict(tmp_path, checks=[CHECK, CHECK | {"metric": "latency", "comparison": "below", "value": 1}])
        assert found.status == "differs"

    def test_what_is_related_never_decides(self, tmp_path):
        record(tmp_path, "cifar10/a.json", factor=99)
        found = verdict(tmp_path, related=[CHECK | {"records": "cifar10/*.json"}])
        assert found.status == "not run"
        assert found.related[0].holds


class TestFinding:
    def test_several_seeds_are_averaged(self, tmp_path):
        for seed, factor in enumerate((30, 31, 33.5)):
            record(tmp_path, f"headline/a-s{seed}.json", {"seed": seed}, factor=factor)
        assert verdict(tmp_path).findings[0].value == pytest.approx(31.5)

    def test_a_difference_is_that_of_two_means(self, tmp_path):
        for name, accuracy in (("e-s0", 90.0), ("e-s1", 91.0), ("d-s0", 92.0), ("d-s1", 94.0)):
            record(tmp_path, f"c/{name}.json", {"seed": int(name[-1])}, accuracy=accuracy)
        found = verdict(tmp_path, **with_check(metric="accuracy", records="c/e-*.json", minus="c/d-*.json", value=-2.5))
        assert found.findings[0].value == pytest.approx(-2.5)
        assert found.findings[0].records == ("c/e-s0.json", "c/e-s1.json", "c/d-s0.json", "c/d-s1.json")
        assert found.status == "reproduced"

    def test_a_difference_is_over_the_seeds_that_both_have(self, tmp_path):
        accuracies = {("e", 0): 90.0, ("e", 2): 93.0, ("d", 0): 92.0, ("d", 1): 70.0, ("d", 2): 94.0}
        for (name, seed), accuracy in accuracies.items():
            record(tmp_path, f"c/{name}-s{seed}.json", {"seed": seed}, accuracy=accuracy)
        found = verdict(tmp_path, **with_check(metric="accuracy", records="c/e-*.json", minus="c/d-*.json"))
        assert found.findings[0].value == pytest.approx(-1.5)
        assert found.findings[0].records == ("c/e-s0.json", "c/e-s2.json", "c/d-s0.json", "c/d-s2.json")

    def test_a_seed_of_one_folder_is_not_that_of_another(self, tmp_path):
        accuracies = {"c/e-s0": 90.0, "c/d-s0": 92.0, "c-b/e-s0": 80.0, "c-b/e-s1": 85.0, "c-b/d-s1": 86.0}
        for name, accuracy in accuracies.items():
            record(tmp_path, f"{name}.json", {"seed": int(name[-1])}, accuracy=accuracy)
        found = verdict(tmp_path, **with_check(metric="accuracy", records="c*/e-*.json", minus="c*/d-*.json"))
        assert found.findings[0].value == pytest.approx(-1.5)

    def test_a_pattern_that_takes_in_another_run_is_refused(self, tmp_path):
        for name in ("q-s0", "q-small-s0"):
            record(tmp_path, f"c/{name}.json", {"seed": 0}, factor=31)
        with pytest.raises(ValueError, match=r"c/q-s\*.json must match one record of a seed, and matches .*q-s0.* and"):
            verdict(tmp_path, **with_check(records="c/q-s*.json"))

    def test_a_difference_needs_both(self, tmp_path):
        record(tmp_path, "headline/quick.json", {"seed": 0}, factor=40)
        alone = verdict(tmp_path, **with_check(records="headline/quick.json", minus="headline/d-*.json"))
        assert alone.status == "not run"
        assert alone.why.startswith("There is no record `headline/d-*.json`.")
        record(tmp_path, "headline/d-s1.json", {"seed": 1}, factor=40)
        unpaired = verdict(tmp_path, **with_check(records="headline/quick.json", minus="headline/d-*.json"))
        assert unpaired.status == "not run"
        assert unpaired.why.startswith("`headline/quick.json` and `headline/d-*.json` share no seed.")

    @pytest.mark.parametrize(
        ("comparison", "tolerance", "passes", "fails"),
        [
            ("at least", 0, 2, 1.999),
            ("at least", 0.5, 1.5, 1.4),
            ("at most", 0.5, 2.5, 2.6),
            ("above", 0, 2.001, 2),
            ("below", 0, 1.999, 2),
            ("equal to", 0.5, 1.5, 2.6),
        ],
    )
    def test_comparisons(self, tmp_path, comparison, tolerance, passes, fails):
        needs = with_check(comparison=comparison, tolerance=tolerance, value=2)
        for factor, status in ((passes, "reproduced"), (fails, "differs")):
            record(tmp_path, "headline/quick.json", factor=factor)
            assert verdict(tmp_path, **needs).status == status

    def test_a_record_of_other_parameters_is_refused(self, tmp_path):
        path = record(tmp_path, "headline/quick.json", {"network": "resnet101"}, factor=40)
        with pytest.raises(ValueError, match=f"{path} must .* network = 'resnet50', and was with 'resnet101'"):
            verdict(tmp_path, **with_check(parameters={"network": "resnet50"}))

    def test_a_record_without_the_metric_is_refused(self, tmp_path):
        record(tmp_path, "headline/quick.json", factors=40)
        with pytest.raises(ValueError, match=r"has no number 'factor'; did you mean 'factors'\?"):
            verdict(tmp_path)
        record(tmp_path, "headline/quick.json", factor="large")
        with pytest.raises(ValueError, match="has no number 'factor'"):
            verdict(tmp_path)

    @pytest.mark.parametrize("text", ["{", "[]", '{"notebook": "x"}'])
    def test_a_malformed_record_is_refused_by_name(self, tmp_path, text):
        path = record(tmp_path, "headline/quick.json", factor=40)
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            verdict(tmp_path)


OUTSIDE = (
    "../x",
    "/abs",
    "a/../../b",
    "a/..",
    "./a",
    "a//b",
    "a/",
    "C:/x",
    "C:x",
    "a\\b",
    "**",
    "**/*.json",
    "a\nb",
    "a\x7f",
)


class TestLoad:
    def write(self, folder: Path, data) -> Path:
        path = folder / "claims.yaml"
        path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
        return path

    def test_claims_come_back_as_they_were_written(self, tmp_path):
        (claim,) = read_claims(self.write(tmp_path, {"claims": [CLAIM]}))
        assert claim == Claim.from_dict(CLAIM)
        assert claim.checks[0].demand == "at least 30.65"

    def test_the_command_follows_from_configuration_and_records(self):
        made = Check(**CHECK | {"records": "13_headline/full.json"})
        assert made.command == "epim run 13_headline --profile full"
        made = Check(**CHECK | {"configuration": "data/experiments/a.yaml"})
        assert made.command == "epim train data/experiments/a.yaml --records data/results"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"txt": "a"}, "unknown key 'txt' in claim 'factor'; did you mean 'text'"),
            ({"wording": "mine"}, "wording of claim 'factor' must be one of 'verbatim', 'ours', got 'mine'"),
            ({"value_from": "memory"}, "value_from of claim 'factor' must be one of"),
            ({"value": None}, "value of claim 'factor' must be a number where it is 'verbatim', got None"),
            ({"value": "30.65"}, "value of claim 'factor' must be a number where it is 'verbatim', got '30.65'"),
            ({"value_from": "unknown"}, "value of claim 'factor' must be null where it is 'unknown', got 30.65"),
            ({"statement": 0}, "statement of claim 'factor' must be at least 1, got 0"),
            ({"text": ""}, "text of claim 'factor' must be a text, got ''"),
            ({"cite": ""}, "cite of claim 'factor' must be a text, got ''"),
            ({"checks": []}, "must have either checks or a reason why it cannot be checked"),
            ({"why": {"cannot be checked": "a"}}, "must have either checks or a reason"),
            ({"why": {"failed": "a"}}, "unknown key 'failed' in why of claim 'factor'"),
            ({"checks": CHECK}, "checks of claim 'factor' must be a list"),
            (with_check(tolerence=1), "unknown key 'tolerence' in checks of claim 'factor'; did you mean 'tolerance'"),
            (with_check(comparison=">"), "comparison of a check must be one of"),
            (with_check(value="30"), "value of a check must be a number, got '30'"),
            (with_check(value=math.nan), "value of a check must be a number, got '.nan'"),
            (with_check(tolerance=-1), "tolerance of a check must be zero or more, got -1"),
            (with_check(records=""), "records of a check must be a text"),
            (with_check(configuration=None), "configuration of a check must be a text"),
            (with_check(parameters=[1]), "parameters of a check must be a mapping"),
            *(
                (with_check(**{name: path}), f"{name} of a check must be a path below its folder")
                for name in ("records", "minus", "configuration")
                for path in OUTSIDE
            ),
            *((with_check(records=value), "records of a check must be a text") for value in (3, True, ["a"], None)),
            (with_check(minus=3), "minus of a check must be a path below its folder, .*, got 3"),
            ({"page": "../x"}, "page of claim 'factor' must be a path below its folder"),
            ({"unit": 3}, "unit of claim 'factor' must be a text, got 3"),
            ({"why": {"differs": 3}}, "why 'differs' of claim 'factor' must be a text, got 3"),
            ({"why": ["differs"]}, "why of claim 'factor' must be a mapping, got list"),
            ({"checks": None}, "checks of claim 'factor' must be a list, got None"),
        ],
    )
    def test_a_wrong_entry_is_named(self, tmp_path, change, message):
        with pytest.raises(ValueError, match=message):
            read_claims(self.write(tmp_path, {"claims": [CLAIM | change]}))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ("a: [", "is not a readable file of claims"),
            ({"claim": []}, "unknown key 'claim' in a file of claims"),
            ({"claims": {}}, "must be a list"),
            ({"claims": ["a"]}, "a claim must be a mapping, got str"),
            ({"claims": [{"name": "a"}]}, "claim 'a' lacks 'statement'"),
            ({"claims": [CLAIM, CLAIM]}, "two claims have the name 'factor'"),
        ],
    )
    def test_a_wrong_file_is_refused(self, tmp_path, data, message):
        with pytest.raises(ValueError, match=message):
            read_claims(self.write(tmp_path, data))

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no file of claims at"):
            read_claims(tmp_path / "claims.yaml")


class TestTables:
    def test_scoreboard_and_evidence(self, tmp_path):
        record(tmp_path, "headline/quick.json", factor=30.654)
        verdicts = [verdict(tmp_path, related=[CHECK | {"what": "other", "records": "none/*.json"}])]
        row = scoreboard(verdicts).loc["factor"]
        assert (row["the paper"], row["ours"], row["status"]) == ("30.65 times", "30.65", "reproduced")
        rows = evidence(verdicts)
        assert list(rows["decides"]) == [True, False]
        assert list(rows["holds"]) == [True, None]
        assert list(rows["ours"]) == ["30.65", "no record"]
        assert list(rows["records"]) == [("headline/quick.json",), ()]
        assert set(rows["configuration"]) == {"notebooks/13_headline.ipynb"}


class TestCommitted:
    """What the project itself says."""

    def test_every_record_is_a_record(self):
        for path in (ROOT / "data" / "results").rglob("*.json"):
            RunRecord.load(path)

    def test_every_statement_of_the_abstract_has_a_claim(self):
        text = (ROOT / "book" / "assumptions.md").read_text(encoding="utf-8")
        listed = text.partition("## What the abstract says")[2].partition("\n## ")[0]
        numbers = {int(number) for number in re.findall(r"^(\d+)\.", listed, re.MULTILINE)}
        assert {claim.statement for claim in read_claims()} == numbers

    def test_the_claims_can_be_confronted_with_the_records(self):
        for found in judge(read_claims()):
            assert found.status in claims.STATUSES
            assert found.why, f"{found.claim.name} is {found.status!r} and does not say why"

    def test_a_claim_without_a_number_is_nowhere_called_reproduced(self):
        for claim in read_claims():
            assert claim.value is not None or "reproduced" not in claim.why, claim.name

    def test_mixed_bits_on_cifar10_are_the_3_bit_run_once_more(self):
        mixed, three = (RunRecord.load(ROOT / f"data/results/cifar10/{run}-s0.json") for run in ("q35", "q3"))
        for metric in ("accuracy", "loss", "crossbars"):
            assert mixed.metrics[metric] == three.metrics[metric]

    def test_pages_and_configurations_are_there(self):
        for claim in read_claims():
            assert (ROOT / claim.page).with_suffix(".ipynb").is_file(), claim.page
            for made in (*claim.checks, *claim.related):
                assert (ROOT / made.configuration).is_file(), made.configuration

    def test_records_of_training_belong_to_runs_of_the_configuration(self):
        for made in (made for claim in read_claims() for made in (*claim.checks, *claim.related)):
            if made.configuration.endswith(".yaml"):
                experiments = yaml.safe_load((ROOT / made.configuration).read_text(encoding="utf-8"))
                for pattern in filter(None, (made.records, made.minus)):
                    study, run = re.fullmatch(r"(.+?)\*?/(.+)-s\[0-9\]\*\.json", pattern).groups()
                    assert study == experiments["study"]
                    assert run in experiments["runs"]

    def test_a_record_of_a_notebook_is_named_after_what_makes_it_again(self):
        """``epim run NAME --profile PROFILE``, or its quick profile with a seed; only records of sweeps say more."""
        for path in (ROOT / "data" / "results").rglob("*.json"):
            record = RunRecord.load(path)
            if not record.training:
                assert path.parent.name == record.notebook
                declared = Notebook.load(ROOT / "notebooks" / f"{record.notebook}.ipynb").parameters
                repeated = re.fullmatch(r"[\w-]+-s(\d+)", path.stem)  # over seeds, and on what it was computed
                given = {"profile": "quick", "seed": int(repeated[1])} if repeated else {"profile": path.stem}
                if path.parents[1].name == "sweeps":
                    given = record.parameters
                assert record.parameters == resolve(declared, given), path

    def test_records_name_no_folder_of_a_machine(self):
        for path in (ROOT / "data" / "results").rglob("*.json"):
            assert not re.search(
                r"(?<![\w.:/])/(?:home|Users|root|tmp|work)/", json.dumps(json.loads(path.read_text()))
            )

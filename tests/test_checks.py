"""A wrong argument, key or file is one clear sentence, and a file is written whole or not at all."""

import errno
import itertools
import json
import os
import re
import time

import numpy as np
import pytest
import yaml

from epimlib import _checks


def test_whole_numbers_of_any_integer_type_become_ints():
    for value in (3, np.int64(3), np.uint8(3), np.array(3)):
        number = _checks.positive("rows", value)
        assert number == 3
        assert type(number) is int


@pytest.mark.parametrize("value", [True, np.True_, 2.0, 2.5, "3", None, float("nan"), [3], np.array([3]), 1j])
def test_what_is_no_whole_number_is_refused_by_name(value):
    with pytest.raises(TypeError, match="rows must be a whole number, got ") as caught:
        _checks.positive("rows", value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("value", "minimum"), [(0, 1), (-3, 1), (-1, 0), (1, 2)])
def test_a_number_below_the_minimum_is_refused_with_the_minimum(value, minimum):
    with pytest.raises(ValueError, match=f"^rows must be at least {minimum}, got {value}$"):
        _checks.positive("rows", value, minimum)
    assert _checks.positive("rows", minimum, minimum) == minimum


@pytest.mark.parametrize("value", [(3, 5), [3, 5], np.array([3, 5]), (number for number in (3, 5))])
def test_every_ordered_pair_becomes_a_tuple_of_ints(value):
    pair = _checks.integers("kernel_size", value, 2)
    assert pair == (3, 5)
    assert all(type(number) is int for number in pair)


def test_one_int_stands_for_a_pair_and_for_nothing_longer():
    assert _checks.integers("kernel_size", 3, 2) == (3, 3)
    assert _checks.integers("kernel_size", np.int32(3), 2) == (3, 3)
    with pytest.raises(ValueError, match="epitome must be 4 whole numbers, got 3"):
        _checks.integers("epitome", 3, 4)


@pytest.mark.parametrize("value", [(3,), (3, 3, 3), "33", b"33", {3, 5}, {3: 3, 5: 5}, None, True, 2.0, ()])
def test_what_is_no_pair_is_refused_with_its_value(value):
    with pytest.raises(ValueError, match="kernel_size must be 2 whole numbers, got ") as caught:
        _checks.integers("kernel_size", value, 2)
    assert repr(value) in str(caught.value)


def test_a_pair_with_a_wrong_member_is_refused():
    with pytest.raises(TypeError, match=r"kernel_size must be a whole number, got 1\.5"):
        _checks.integers("kernel_size", (3, 1.5), 2)
    with pytest.raises(TypeError, match="kernel_size must be a whole number, got True"):
        _checks.integers("kernel_size", (True, 3), 2)
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        _checks.integers("kernel_size", (0, 3), 2)
    assert _checks.integers("padding", (0, 3), 2, minimum=0) == (0, 3)


def test_a_choice_is_compared_with_its_type():
    assert _checks.one_of("polarity", 2, [1, 2]) == 2
    for value in (True, 2.0, 3, "2", None, [1, 2], np.array([1, 2])):
        with pytest.raises(ValueError, match=r"^polarity must be one of 1, 2, got ") as caught:
            _checks.one_of("polarity", value, [1, 2])
        assert str(caught.value).endswith(repr(value))


def test_nearest_suggests_one_name_or_lists_at_most_ten():
    assert _checks.nearest("rwos", ["rows", "cols"]) == "did you mean 'rows'?"
    assert _checks.nearest("zzz", ["rows", "cols"]) == "known are cols, rows"
    assert _checks.nearest(7, ["rows", "cols"]) == "known are cols, rows"
    many = _checks.nearest("zzz", [f"layer{number:02}" for number in range(54)])
    assert many.endswith("layer09 and 44 more")
    assert "layer10" not in many


def test_keys_name_the_first_wrong_or_missing_one():
    assert _checks.keys("a thing", {"a": 1, "b": 2}, ["a"], ["b"]) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match=r"^unknown key 'rwos' in a thing; did you mean 'rows'\?$"):
        _checks.keys("a thing", {"rows": 1, "rwos": 2}, ["rows"], ["cols"])
    with pytest.raises(ValueError, match=r"^a thing lacks 'rows', 'cols'$"):
        _checks.keys("a thing", {}, ["rows", "cols"])
    for data in (None, [1], "text", 3):
        with pytest.raises(ValueError, match=f"^a thing must be a mapping, got {type(data).__name__}$"):
            _checks.keys("a thing", data, ["rows"])


@pytest.mark.parametrize("content", [b"", b'{"name": "resn', b"not json", b"\xff\xfe\x00", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a readable workload: ")) as caught:
        _checks.read_json(path, "workload")
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=re.escape(f"no workload at {path}")):
            _checks.read_json(path, "workload")


ALIASES = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{key}: &{key} [{', '.join([f'*{before}'] * 10)}]\n" for before, key in itertools.pairwise("abcdefghij")
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}]\n" for i in range(1000))


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("json", "[" * 100_000, "it is nested more than 100 deep"),
        ("json", '{"a":' * 3000 + "1" + "}" * 3000, "it is nested more than 100 deep"),
        ("json", "[" * 101 + "]" * 101, "it is nested more than 100 deep"),
        ("json", '{"a": ' + "9" * 5000 + "}", "a number has 5000 digits, more than 40"),
        ("json", "[NaN]", "a number is not finite: NaN"),
        ("json", "[-Infinity]", "a number is not finite: -Infinity"),
        ("json", "[1e999]", "a number is not finite: 1e999"),
        ("json", '{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
        ("json", "{" + "x" * 10_000, "Expecting property name"),
        ("json", " " * (64 << 20) + "1", "it has more than 65536 KiB"),
        ("yaml", "[" * 60_000, "it is nested more than 100 deep"),
        ("yaml", "{a: " * 15_000, "it is nested more than 100 deep"),
        ("yaml", "- " * 30_000, "it is nested more than 100 deep"),
        ("yaml", "? " * 30_000, "it is nested more than 100 deep"),
        ("yaml", ALIASES, "its aliases stand for more than 100000 values"),
        ("yaml", CHAIN, "it is nested more than 100 deep"),
        ("yaml", "&a [*a]", "an alias stands inside of what it stands for"),
        ("yaml", "*a", "found undefined alias"),
        ("yaml", "a: 1\nb: 2\na: 3", "the key 'a' is there twice, line 3"),
        ("yaml", "{[a]: 1}", "a key is no text, line 1"),
        ("yaml", "a: " + "9" * 5000, "a number has 5000 digits, more than 40"),
        ("yaml", "a: 1e999", "a number is not finite: 1e999"),
        ("yaml", "!!python/object/apply:os.system [ls]", "a value has the tag 'tag:yaml.org,2002:python/object/apply"),
        ("yaml", "!!binary eA==", "a value has the tag 'tag:yaml.org,2002:binary'"),
        ("yaml", "!!int 1:30", "invalid literal for int"),
        ("yaml", "a: b: c", "mapping values are not allowed"),
        ("yaml", "a: \0", "unacceptable character"),
        ("yaml", "---\na\n---\nb", "expected a single document"),
        ("yaml", "#" * (64 << 10) + "#", "it has more than 64 KiB"),
        ("yaml", "a\n" * 30_000 + ": b", "is not a readable thing: "),
    ],
)
def test_what_cannot_be_read_within_bounds_is_one_sentence(tmp_path, kind, content, message):
    path = tmp_path / "file"
    path.write_text(content)
    started = time.monotonic()
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a readable thing: ")) as caught:
        {"json": _checks.read_json, "yaml": _checks.read_yaml}[kind](path, "thing")
    assert time.monotonic() - started < 10
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("loader", ["C", "Python"])
def test_yaml_has_the_numbers_of_its_version_1_2(tmp_path, monkeypatch, loader):
    if loader == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    _checks._yaml_loader.cache_clear()
    path = tmp_path / "file"
    path.write_text(
        "numbers: [1, -3, 1e-3, 1.5, .5, 2., +4E2, 0]\n"
        "texts: [1:30, 010, 0x1F, 1_000, yes, on, 2024-01-01, .nan, .inf, '1', 1e, '']\n"
        "others: [true, False, null, ~, ]\n"
        "base: &base {a: 1, b: 2}\nown: {<<: *base, b: 3}\nagain: *base\nempty:\n"
    )
    try:
        assert _checks.read_yaml(path, "thing") == {
            "numbers": [1, -3, 0.001, 1.5, 0.5, 2.0, 400.0, 0],
            "texts": ["1:30", "010", "0x1F", "1_000", "yes", "on", "2024-01-01", ".nan", ".inf", "1", "1e", ""],
            "others": [True, False, None, None],
            "base": {"a": 1, "b": 2},
            "own": {"a": 1, "b": 3},
            "again": {"a": 1, "b": 2},
            "empty": None,
        }
    finally:
        _checks._yaml_loader.cache_clear()


def test_an_empty_yaml_file_holds_nothing(tmp_path):
    (tmp_path / "file").write_text("# a comment\n")
    assert _checks.read_yaml(tmp_path / "file", "thing") is None


NAMES = ["q3-scratch-20", "cifar10", "a b", "v1.5", "x" * 100, "é", "a+b", "3"]
NO_NAMES = [
    "", ".", "..", "../x", "../../evil", "/abs", "a/b", "a/", "a\\b", "C:x", "a\nb", "a\n", "\na", "a\0b", "a\x1b[2J",
    ".hidden", "a.", " a", "a ", "-a", "~", "*", "a?", "a|b", "x" * 101, "x" * 10_000_000, "con", "NUL.txt", "a\ud800",
]  # fmt: skip


@pytest.mark.parametrize("value", NAMES)
def test_a_name_is_that_of_one_file_in_any_folder(tmp_path, value):
    assert _checks.name("study", value) == value
    (tmp_path / value).touch()
    assert os.listdir(tmp_path) == [value]


@pytest.mark.parametrize("value", NO_NAMES)
def test_what_is_no_name_is_refused(value):
    with pytest.raises(
        ValueError, match="^study must be a name of at most 100 letters, digits and, within, any"
    ) as caught:
        _checks.name("study", value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [None, 3, True, 1.5, ["a"], {"a": 1}, b"a"])
def test_what_is_no_text_is_no_name(value):
    with pytest.raises(TypeError, match="^study must be a name, got"):
        _checks.name("study", value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a  b\n\tc", "a b c"),
        ("a\0b\x1b[31m\ud800", r"a\x00b\x1b[31m\ud800"),
        ("×", "×"),
        ("a" * 400, "a" * 400),
        ("a" * 300 + "b" * 300, "a" * 295 + " ... " + "b" * 100),
    ],
)
def test_a_line_is_printable_and_short(text, shown):
    assert _checks.line(text) == shown


def test_a_line_of_millions_is_cut_at_once():
    started = time.monotonic()
    assert len(_checks.line("a\n" * 10_000_000 + "the end")) <= 400
    assert _checks.line("a" * 10_000_000 + "the end").endswith("the end")
    assert time.monotonic() - started < 2


def test_json_comes_back_as_it_was_written(tmp_path):
    data = {"text": "µ – ×", "list": [1, 2.5, None, True]}
    path = tmp_path / "new" / "folder" / "data.json"
    _checks.write_json(path, data)
    assert _checks.read_json(str(path), "thing") == data
    assert os.listdir(path.parent) == ["data.json"]


def test_writing_replaces_a_file_whole(tmp_path):
    path = tmp_path / "data.json"
    _checks.write_text(path, "old, and much longer than the new one")
    _checks.write_text(path, "new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["data.json"]


@pytest.mark.parametrize("data", [{"a": float("nan")}, {"a": float("inf")}, {"a": {1, 2}}])
def test_data_that_is_no_json_leaves_the_old_file(tmp_path, data):
    path = tmp_path / "data.json"
    _checks.write_json(path, {"old": 1})
    with pytest.raises((ValueError, TypeError)):
        _checks.write_json(path, data)
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["data.json"]


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = tmp_path / "data.json"
    _checks.write_text(path, "old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        _checks.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["data.json"]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "data.json"
    _checks.write_text(path, "old")

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: {str(path)!r}$"):
        _checks.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["data.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fsync of a folder")
def test_what_is_written_reaches_the_disk_before_its_name_and_then_its_folders(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.fstat(handle).st_ino), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    path = tmp_path / "new" / "folder" / "data.json"
    _checks.write_text(path, "text")
    file, folder, new, old = (p.stat().st_ino for p in [path, *path.parents][:4])
    assert done == [new, old, file, "rename", folder]


def test_a_text_that_cannot_be_encoded_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        _checks.write_text(tmp_path / "data.txt", "\ud800")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        _checks.write_text(tmp_path / "file" / "data.json", "{}")
    assert os.listdir(tmp_path) == ["file"]

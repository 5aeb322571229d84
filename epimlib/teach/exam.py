"""Exams: some questions of the bank with the numbers of a seed, as a sheet and its key in Markdown."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from random import Random

from epimlib._checks import positive, write_text
from epimlib.teach import choices, costs, foundations, related, results  # each registers its questions
from epimlib.teach.bank import BANK, Drawn, Question, shown

PARTS = (foundations, costs, choices, results, related)
LARGEST_SEED = 2**31 - 1


def questions() -> list[Question]:
    """Return all questions, by chapter."""
    return sorted(BANK.values(), key=lambda question: question.chapter)


def chapters(text: str) -> list[int]:
    """Return the chapters of a request such as ``1-5,9``.

    Raises:
        ValueError: if it is no list of chapters and ranges, or there is no question on one of them.
    """
    known = sorted({question.chapter for question in questions()})
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.strip().isdecimal() or (dash and not last.strip().isdecimal()):
            raise ValueError(f"chapters must be numbers and ranges, as 1-5,9, got {text!r}")
        found += [chapter for chapter in range(int(first), int(last or first) + 1) if chapter in known or not dash]
    if not found or set(found) - set(known):
        raise ValueError(f"chapters must be some of {', '.join(map(str, known))}, got {text!r}")
    return found


def choose(seed: int, count: int, allowed: Collection[int] | None = None) -> list[Question]:
    """Return ``count`` questions, drawn by the seed and spread over the chapters: none has two before each has one.

    Raises:
        TypeError, ValueError: if the seed or the number is not allowed, or there are not so many questions.
    """
    positive("seed", seed, 0, LARGEST_SEED)
    bank = [question for question in questions() if allowed is None or question.chapter in allowed]
    positive("questions", count, maximum=len(bank))
    seen: Counter[int] = Counter()
    turns = {}
    for question in Random(seed).sample(bank, len(bank)):
        turns[question.name] = seen[question.chapter]
        seen[question.chapter] += 1
    taken = sorted(turns, key=turns.get)[:count]
    return [question for question in bank if question.name in taken]


def exam(seed: int, count: int = 8, allowed: Collection[int] | None = None) -> tuple[str, str]:
    """Return a sheet and its key; the same arguments give the same ones on every machine."""
    chosen = [(question, question.draw(seed)) for question in choose(seed, count, allowed)]
    points = sum(question.points for question, _ in chosen)
    sheet = [f"# Exam {seed}", f"{count} questions, {points} points. Show how you found each answer.", "Name:"]
    key = [f"# Key of exam {seed}", f"{count} questions, {points} points."]
    for number, (question, drawn) in enumerate(chosen, 1):
        title = f"## {number}. {question.title} ({question.points} points, chapter {question.chapter})"
        sheet += [title, drawn.text]
        key += [title, told(drawn), drawn.steps]
    return "\n\n".join(sheet) + "\n", "\n\n".join(key) + "\n"


def told(drawn: Drawn) -> str:
    """Return the key of a question as a line."""
    return "**" + "; ".join(f"{name}: {shown(value)}" for name, value in drawn.key.items()) + "**"


def write_exam(folder: str | Path, seed: int, count: int = 8, allowed: Collection[int] | None = None) -> list[Path]:
    """Write ``exam-SEED.md`` and ``exam-SEED-key.md`` and return their paths; what is there already stays.

    Raises:
        FileExistsError: if one of them is there with another content.
    """
    files = {
        Path(folder) / f"exam-{seed}{end}.md": text
        for end, text in zip(("", "-key"), exam(seed, count, allowed), strict=True)
    }
    for path, text in files.items():
        if path.exists() and path.read_text("utf-8") != text:
            raise FileExistsError(f"{path} holds another exam; name another folder, or remove it")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        write_text(path, text)
    return list(files)

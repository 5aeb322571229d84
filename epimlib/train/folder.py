"""The folder of a training, a run of its own::

    network.json                what was built: design, bits, crossbars
    epoch-0007.3f0c….pt         everything that the next epoch needs; the two latest are kept, the name has a checksum
    epoch-0007_0000123.4a….pt   the same within a long epoch, after so many of its steps
    history.csv                 loss and accuracy of every epoch
    weights.pt, record.json     written last, when the run is finished

What is not finished lacks the record.
"""

import csv
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from epimlib._checks import keys, read_json, write_bytes, write_text
from epimlib.train.config import TrainConfig

KEPT = 2
"""Checkpoints that are kept: the second is for a damaged first."""
FOUND = ("train_loss", "accuracy", "loss", "seconds", "processor_seconds")
"""What the history says of an epoch."""
WEIGHTS = "weights.pt"


def require_same(folder: Path, there: Mapping[str, Any], config: TrainConfig) -> None:
    """Raise ``ValueError`` if a folder is of a run with another configuration."""
    wanted = config.to_dict()
    for name in wanted | dict(there):
        if there.get(name) != wanted.get(name):
            raise ValueError(
                f"{folder} holds a run with {name} = {there.get(name)!r}, not {wanted.get(name)!r}; take another folder"
            )


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints, the latest last."""
    return sorted(folder.glob("epoch-*.pt"))


def read_about(folder: Path) -> Mapping[str, Any]:
    """Return what was built, ``Network.about`` and the configuration."""
    path = folder / "network.json"
    names = ["config", "design", "bits", "crossbars", "crossbars_dense", "parameters"]
    return keys(f"{path}", read_json(path, "description of a network"), names)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a finished run.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are damaged, or no weights.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; the run is not finished, or its weights were not kept")
    content = io.BytesIO(path.read_bytes())
    try:
        state = torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file raises anything, and says it in paragraphs
        raise ValueError(f"{path} is damaged, or no file of weights") from error
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} must hold tensors by name, got {type(state).__name__}")
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path} must hold finite numbers, got others in {name!r}")
    return state


def latest_checkpoint(folder: Path) -> tuple[Path, bytes] | None:
    """Return the latest whole checkpoint, its path and content; damaged ones are named on the terminal."""
    for path in reversed(checkpoints(folder)):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == path.name.split(".")[1]:
            return path, content
        tqdm.write(f"{path} is damaged: its checksum is another one; the checkpoint before it is used")
    return None


def write_checkpoint(folder: Path, epochs: int, step: int, state: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all, and drop others but the latest.

    It is named by the epochs that have ended and, where one has begun, the last step of that one, else 0.
    """
    content = saved(state)
    number = f"epoch-{epochs:04d}" + (f"_{step:07d}" if step else "")
    path = folder / f"{number}.{hashlib.sha256(content).hexdigest()[:16]}.pt"
    write_bytes(path, content)
    # What is not before this one is damaged, else the run would have gone on from there.
    before = [other for other in checkpoints(folder) if other.name < number]
    for old in {*checkpoints(folder)} - {path, *before[-(KEPT - 1) :]}:
        old.unlink()


def write_history(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write what was found in every epoch, as CSV."""
    text = io.StringIO()
    table = csv.DictWriter(text, ["epoch", *FOUND], lineterminator="\n")
    table.writeheader()
    table.writerows({"epoch": number, **row} for number, row in enumerate(history, 1))
    write_text(folder / "history.csv", text.getvalue())


def saved(content: Any) -> bytes:
    """Return what `torch.save` makes of tensors and plain data."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()

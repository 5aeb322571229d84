"""What is trained: a configuration, and files of such configurations.

A file of experiments is YAML. Its ``runs`` differ from its ``base`` in the keys that they name::

    study: digits
    seeds: [0, 1, 2]
    base: {data: digits, model: resnet9, model_options: {width: 8}, epochs: 10}
    runs:
      dense: {}
      epitome: {start: dense, design: {rows: 144, cols: 64, wrap: 1}, epochs: 5}
"""

import ast
import dataclasses
import inspect
import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epimlib import _checks
from epimlib._checks import fields_of, keys, nearest, one_of, positive, read_json, read_yaml
from epimlib.pim.hardware import Hardware
from epimlib.train.data import DATASETS

PRECISIONS = ("float32", "bfloat16", "float16")
SCHEDULES = ("poly", "cosine", "tanh")
"""Of timm's, those that need no further constants."""
DECIDED = {"num_classes": "data", "in_chans": "data", "checkpoint_path": "start"}
"""Options of a model that another field decides."""
DENSE_BITS = 32
"""Of the dense network that crossbars are compared with."""
BITS = (2, 16)
"""Least and most of a quantized layer."""

CHOICES = {"data": DATASETS, "precision": PRECISIONS, "schedule": SCHEDULES, "deterministic": (False, True)}
WHOLE_NUMBERS = {"epochs": (0, 9999), "batch_size": (1, 2**20), "workers": (0, 1024), "seed": (0, 2**32 - 1)}
"""Fields of a configuration with their least and largest value."""
NUMBERS = dict.fromkeys(("distillation", "warmup", "smoothing", "ema"), 1)
NUMBERS |= dict.fromkeys(("lr", "weight_decay", "temperature", "mixup", "cutmix"), 100)
"""Fields that are numbers from zero, with the largest."""
KINDS = {
    **dict.fromkeys(("model", "optimizer", "hardware"), ("a name", str)),
    **dict.fromkeys(("start", "auto_augment"), ("a name", str | None)),
    **dict.fromkeys(("model_options", "layer_bits", "hardware_options"), ("a mapping", Mapping)),
    **dict.fromkeys(("design", "shrink", "quantize", "mixed"), ("a mapping", Mapping | None)),
}
"""Fields of another kind, in words and as a type."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    The network is timm's ``model``, new or with the weights of an earlier run (``start``). It is changed in up to two
    steps: made smaller, by epitomes (``design``) or without them (``shrink``), and quantized (``quantize``).

    Raises:
        TypeError, ValueError: if a value is not allowed.
    """

    data: str
    model: str
    """A timm name, ``resnet9`` or ``resnet20``."""
    epochs: int
    model_options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``timm.create_model``."""
    image_size: int | None = None
    """Height and width [pixels] of ImageNet's crops; None is the usual size."""
    start: str | None = None
    """The run whose weights are the start: a run of the dense network, or of the one that ``design`` or ``shrink`` make
    of it. None: from scratch."""
    design: Mapping[str, Any] | None = None
    """Arguments of `Design.uniform` and ``dense``, a list of layers to leave as they are; or a design as plain data
    (`Design.to_dict`). A file of experiments may name a JSON file of one, beside it."""
    shrink: Mapping[str, Any] | None = None
    """``method`` and ``blocks`` of `shrink`, or the method ``width``: the same network with fewer channels, for models
    with that option. What other methods keep depends on the weights of ``start``, a dense run."""
    quantize: Mapping[str, Any] | None = None
    """Fields of `QuantConfig`, apart from its crossbar."""
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    """Bits of the weights of the layers that it names."""
    mixed: Mapping[str, Any] | None = None
    """``bits``, the choices, and ``factor``, how many times fewer crossbars than dense: layers that ``layer_bits`` does
    not name get their bits by sensitivity; ``batches`` (1) of images and ``probes`` (20) for the Hessian."""
    distillation: float = 0.0
    """Share of the loss that compares outputs with those of ``start``, 0 to 1 (Hinton et al., arXiv 1503.02531)."""
    temperature: float = 4.0
    """Of the distillation."""
    batch_size: int = 128
    """Images in a step of each process."""
    optimizer: str = "sgd"
    """A timm name; ``sgd`` has Nesterov's momentum."""
    lr: float = 0.1
    weight_decay: float = 5e-4
    schedule: str = "poly"
    """``poly`` falls linearly to zero."""
    warmup: float = 0.0
    """Share of the epochs in which the learning rate rises from zero, less than 1."""
    smoothing: float = 0.0
    """Label smoothing."""
    mixup: float = 0.0
    cutmix: float = 0.0
    auto_augment: str | None = None
    """timm's policy, for ImageNet: ``rand-m7-mstd0.5`` and the like."""
    ema: float = 0.0
    """Decay of the averaged weights that are then evaluated; 0: none."""
    precision: str = "float32"
    """Of autocast."""
    deterministic: bool = True
    workers: int = 0
    """Processes that read ImageNet's images."""
    hardware: str = "default"
    """Preset on which crossbars are counted."""
    hardware_options: Mapping[str, Any] = field(default_factory=lambda: {"crossbar.rows": 64, "crossbar.cols": 64})
    """Constants that differ from the preset's, by dotted name."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        for name, (least, most) in WHOLE_NUMBERS.items():
            positive(name, getattr(self, name), least, most)
        for name, most in NUMBERS.items():
            _number(name, getattr(self, name), most)
        for name, (what, kind) in KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be {what}, got {getattr(self, name)!r}")
            if isinstance(getattr(self, name), Mapping):
                _plain(name, getattr(self, name))
        for name in self.model_options.keys() & DECIDED.keys():
            raise ValueError(f"model_options must not name {name!r}, which {DECIDED[name]} decides")
        for name, bits in self.layer_bits.items():
            positive(f"layer_bits of {name!r}", bits, *BITS)
        _check_mixed(self.mixed)
        if self.data == "imagenet" and self.image_size is not None:
            positive("image_size", self.image_size)
        for contradicts, sentence in self._contradictions():
            if contradicts:
                raise ValueError(sentence)

    def _contradictions(self) -> list[tuple[bool, str]]:
        """Return what must not be true of values that are each allowed, and what is then said."""
        mixes, small, quantized = self.mixup or self.cutmix, self.data != "imagenet", self.quantize is not None
        return [
            (self.warmup == 1, f"warmup must be less than 1, which leaves no epoch to the schedule, got {self.warmup}"),
            (self.temperature == 0, f"temperature must be above 0, got {self.temperature}"),
            (
                bool(mixes) and self.batch_size % 2 == 1,
                f"batch_size must be even for mixup and cutmix, which mix pairs, got {self.batch_size}",
            ),
            (
                small and self.auto_augment is not None,
                f"auto_augment must be None for {self.data}, which has its own, got {self.auto_augment!r}",
            ),
            (
                small and self.image_size is not None,
                f"image_size must be None for {self.data}, whose images have one size, got {self.image_size!r}",
            ),
            (
                self.shrink is not None and self.mixed is not None,
                "shrink and mixed exclude each other: bits by sensitivity are for dense and epitome layers",
            ),
            (
                self.shrink is not None and self.design is not None,
                "design and shrink exclude each other: both make the network smaller",
            ),
            (
                self.distillation > 0 and self.start is None,
                f"distillation {self.distillation} needs a start, the network to learn from",
            ),
            (bool(self.layer_bits) and not quantized, "layer_bits needs quantize, which says how"),
            (self.mixed is not None and not quantized, "mixed needs quantize, which says how"),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that ``from_dict`` reads, just as a file of it would: tuples become lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrainConfig":
        """Return the configuration of ``to_dict``; what is left out has its default, unknown keys are errors."""
        return cls(**fields_of("a training configuration", data, cls))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Return (channels, height, width) of an image."""
        shape = DATASETS[self.data].shape
        return shape if self.image_size is None else (shape[0], self.image_size, self.image_size)

    def on_hardware(self) -> Hardware:
        """Return the hardware on which crossbars are counted."""
        return Hardware.preset(self.hardware).replace(self.hardware_options)


@dataclass(frozen=True)
class Run:
    """One run of a file of experiments."""

    study: str
    name: str
    config: TrainConfig

    @property
    def folder(self) -> str:
        """Return the name of its folder and of its record."""
        return f"{self.name}-s{self.config.seed}"


def read_experiments(path: str | Path, runs: Iterable[str] = (), seeds: Iterable[int] = ()) -> list[Run]:
    """Return the runs of a file of experiments, in its order, each with all its seeds.

    Args:
        path: of the YAML file.
        runs: names of those that are wanted; none: all.
        seeds: in place of the file's.

    Raises:
        FileNotFoundError: if there is no such file, or no file of a design that it names.
        ValueError, TypeError: if it is no valid file of experiments, or lacks a run that is wanted.
    """
    data = read_yaml(path, "file of experiments")
    keys(f"{path}", data, ["study", "seeds", "base", "runs"])
    _checks.name(f"study of {path}", data["study"])
    for what in ("base", "runs"):
        if not isinstance(data[what], Mapping):
            raise TypeError(f"{what} of {path} must be a mapping, got {data[what]!r}")
    if not data["runs"]:
        raise ValueError(f"runs of {path} must name at least one run, got {data['runs']!r}")
    for name in data["runs"]:
        _checks.name(f"a run of {path}", name)
    wanted = list(runs) or list(data["runs"])
    for name in wanted:
        if name not in data["runs"]:
            raise ValueError(f"{path} has no run {name!r}; {nearest(name, data['runs'])}")
    found, earlier = [], []
    for name, own in data["runs"].items():
        try:
            configs = _configs(data, {} if own is None else own, list(seeds), Path(path).parent)
            start = configs[0].start
            if start is not None and start not in earlier:
                raise ValueError(f"start must be an earlier run of the file, got {start!r}")
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}, run {name!r}: {error}") from error
        earlier.append(name)
        found += [Run(data["study"], name, config) for config in configs if name in wanted]
    return found


def describe() -> str:
    """Return the keys of a file of experiments and of its runs, with their defaults; read from this very file."""
    (body,) = ast.parse(inspect.getsource(TrainConfig)).body
    pairs = [pair for pair in itertools.pairwise([*body.body, body]) if isinstance(pair[0], ast.AnnAssign)]
    said = {ast.unparse(own.target): after.value.value for own, after in pairs if isinstance(after, ast.Expr)}
    lines = [
        "keys of CONFIG: study, a name; seeds, a list; base, a mapping; runs, a mapping of names to mappings.",
        "keys of base and of each run, which may also have seeds of its own:",
    ]
    for own in dataclasses.fields(TrainConfig):
        if own.name == "seed":
            continue
        factory = own.default_factory is not dataclasses.MISSING
        default = own.default_factory() if factory else own.default
        lines.append(f"  {own.name}: {'needed' if default is dataclasses.MISSING else json.dumps(default)}")
        allowed = f"One of {', '.join(map(json.dumps, CHOICES[own.name]))}." if own.name in CHOICES else ""
        text = " ".join([*said.get(own.name, "").replace("`", "").split(), allowed])
        lines += textwrap.wrap(text, 100, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _configs(data: Mapping[str, Any], own: Any, seeds: list[int], folder: Path) -> list[TrainConfig]:
    """Return the configurations of a run, one for each seed."""
    if not isinstance(own, Mapping):
        raise TypeError(f"a run must be a mapping, got {own!r}")
    listed = seeds or own.get("seeds", data["seeds"])
    if not isinstance(listed, list) or not listed or len({*map(repr, listed)}) < len(listed):
        raise TypeError(f"seeds must be a list of different seeds, at least one, got {listed!r}")
    for place, values, names in (("base", data["base"], ("seed", "seeds")), ("a run", own, ("seed",))):
        for name in names:
            if name in values:
                raise ValueError(f"{place} must not name {name!r}: seeds are listed beside base, or in a run")
    values = {name: value for name, value in {**data["base"], **own}.items() if name != "seeds"}
    if isinstance(values.get("design"), str):
        file = values["design"].removesuffix(".json")
        _checks.name("the file of a design", file)
        values["design"] = read_json(folder / f"{file}.json", "design")
    return [TrainConfig.from_dict({**values, "seed": seed}) for seed in listed]


def _number(name: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        text = isinstance(value, str) and re.fullmatch(r"[-+.\deE]+", value)
        hint = ", which is a text in YAML: a number has no quotes" if text else ""
        raise ValueError(f"{name} must be a number from 0 to {most:g}, got {value!r}{hint}")
    return value


def _plain(name: str, value: Mapping[Any, Any]) -> None:
    """Raise if a mapping would not come back from the JSON of a record."""
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} must have names as keys, got {key!r}")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be plain data, got {dict(value)}: {error}") from error


def _check_mixed(mixed: Mapping[str, Any] | None) -> None:
    """Raise if this is no description of mixed precision, nor none of it."""
    if mixed is None:
        return
    keys("mixed", mixed, ["bits", "factor"], ["batches", "probes"])
    choices, factor = mixed["bits"], mixed["factor"]
    if not isinstance(choices, list | tuple) or not choices:
        raise ValueError(f"mixed.bits must be a list of at least one choice, got {choices!r}")
    for bits in choices:
        positive("mixed.bits", bits, *BITS)
    if _number("mixed.factor", factor, 1e6) == 0:
        raise ValueError(f"mixed.factor must be above 0, got {factor!r}")
    for name in ("batches", "probes"):
        positive(f"mixed.{name}", mixed.get(name, 1), maximum=1000)

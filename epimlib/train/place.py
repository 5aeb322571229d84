"""Where a training runs: on which device, and as which of how many processes."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from epimlib._checks import one_of
from epimlib._torchvision import ensure_torchvision


@dataclass(frozen=True)
class Place:
    """A device, and which of the processes this is."""

    device: torch.device
    rank: int
    world: int
    """Processes that train together."""

    @classmethod
    def of(cls, device: str) -> "Place":
        """Return the place of this process; under torchrun it joins the process group.

        Args:
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"``, the best that is there.

        Raises:
            ValueError: if the device is not there.
        """
        ensure_torchvision()
        from timm.utils.distributed import init_distributed_device_so, is_distributed_env

        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        there = [kind for kind, found in there.items() if found]
        chips = [f"cuda:{number}" for number in range(torch.cuda.device_count() * ("cuda" in there))]
        one_of("device", device, ["auto", *there, *chips])
        device = there[0] if device == "auto" else device
        if is_distributed_env() and torch.distributed.is_initialized():
            return cls(torch.device(device), torch.distributed.get_rank(), torch.distributed.get_world_size())
        found = init_distributed_device_so(device)
        return cls(torch.device(found["device"]), found["global_rank"], found["world_size"])

    @property
    def distributed(self) -> bool:
        """Return whether other processes train too."""
        return self.world > 1

    @property
    def count(self) -> dict[str, int]:
        """Return the numbers of threads and processes: they decide in which order numbers are added."""
        return {"threads": torch.get_num_threads(), "processes": self.world}

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over all processes, as a vector."""
        value = value.reshape(-1)
        if self.distributed:
            torch.distributed.all_reduce(value)
        return value

    def random(self) -> list[Any]:
        """Return the states of all generators that training draws from, as plain data and tensors."""
        name, words, *rest = np.random.get_state()  # noqa: NPY002  (timm's mixup draws from it)
        states = [random.getstate(), (name, words.tolist(), *rest), torch.get_rng_state()]
        if self.device.type == "cpu":
            return states
        return [*states, getattr(torch, self.device.type).get_rng_state()]

    def set_random(self, states: list[Any]) -> None:
        """Go on with the states that ``random`` has returned."""
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2].cpu())
        if self.device.type != "cpu":
            getattr(torch, self.device.type).set_rng_state(states[3].cpu())

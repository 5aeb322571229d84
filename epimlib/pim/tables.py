"""The three index tables of the datapath, made from a plan.

A crossbar holds the epitome, not the weight that is sampled from it. So for every output position the
datapath works in *rounds*: each drives some word lines, senses some columns and leaves one block of the
convolution's sum. Three small tables say which, one entry per round:

- IFAT, the input feature address table: which input channels to fetch (from the window of the output
  position).
- IFRT, the input feature row table: at which word line of the epitome matrix they start.
- OFAT, the output feature address table: which columns to sense, which output channels receive their sums,
  whether the sums start a result or extend a partial one; and, for wrapped blocks, which results are copies.

Round coefficients are stored with OFAT. Copies then receive the sums of every round of their source themselves, each
with its own coefficients.

The epitome matrix has a word line for every ``(b, y, x)`` of the epitome, in this order, and a logical column
for every output channel ``a``. What the three tables hold in the paper is not available to us; this is our
reconstruction.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from epimlib.epitome.plan import COEFFICIENT_BITS, EpitomeSpec, Plan

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Tables:
    """Index tables of one layer, as int64 arrays with one row per round (`copies`: per copied output block)."""

    spec: EpitomeSpec
    ifat: np.ndarray
    """``(rounds, 2)``: first input channel, input channels."""
    ifrt: np.ndarray
    """``(rounds, 1)``: word line of the first input channel's first weight, ``(b * E_h + y) * E_w + x``."""
    ofat: np.ndarray
    """``(rounds, 4)``: first column, first output channel, output channels, 1 where the sums extend a partial
    one."""
    copies: np.ndarray
    """``(copies, 3)``: first output channel of the source, of the copy, output channels. The second part of
    OFAT. With coefficients: of blocks that receive the same sums."""

    @classmethod
    def from_plan(cls, plan: Plan, reuse: bool = True) -> "Tables":
        """Return the tables of a plan.

        Args:
            plan: of the layer; ``EpitomeSpec.dense(...).plan()`` is a dense layer's, with one round.
            reuse: whether equal output blocks are computed once and copied (feature-map reuse); else every
                block has a round of its own.
        """
        spec = plan.spec
        (n_out, n_in), (b_out, b_in) = spec.grid, spec.block
        source = np.array(plan.source)
        out = np.flatnonzero(source == np.arange(n_out)) if reuse else np.arange(n_out)
        a, b, y, x = np.moveaxis(plan.offsets[out].reshape(-1, 4), 1, 0)
        first_in, first_out = np.arange(n_in) * b_in, np.arange(n_out) * b_out
        channels_in = np.minimum(b_in, spec.in_channels - first_in)
        channels_out = np.minimum(b_out, spec.out_channels - first_out)
        block, extends = np.repeat(out, n_in), np.tile(np.arange(n_in) > 0, len(out))
        copied = np.delete(np.arange(n_out), out)
        return cls(
            spec=spec,
            ifat=np.tile(np.stack([first_in, channels_in], axis=1), (len(out), 1)),
            ifrt=((b * spec.epitome[2] + y) * spec.epitome[3] + x)[:, None],
            ofat=np.stack([a, first_out[block], channels_out[block], extends], axis=1),
            copies=np.stack([first_out[source[copied]], first_out[copied], channels_out[copied]], axis=1),
        )

    @property
    def rounds(self) -> int:
        """Rounds per output position."""
        return len(self.ifat)

    @property
    def bits(self) -> int:
        """Size of the tables: every column is as wide as its largest entry needs. One round needs no table.

        Coefficients take `COEFFICIENT_BITS` each.
        """
        coefficients = COEFFICIENT_BITS[self.spec.coefficients] * self.spec.out_channels * self.spec.grid[1]
        if self.rounds == 1 and not len(self.copies):
            return coefficients
        return coefficients + sum(
            len(table) * sum(int(largest).bit_length() for largest in table.max(axis=0))
            for table in (self.ifat, self.ifrt, self.ofat, self.copies)
            if len(table)
        )

    @property
    def received(self) -> np.ndarray:
        """Output channels that receive the sums of each round, ``(rounds,)``: with coefficients those of copies too."""
        if not self.spec.weighed:
            return self.ofat[:, 2]
        shared = np.bincount(self.copies[:, 0], self.copies[:, 2], self.spec.out_channels).astype(np.int64)
        return self.ofat[:, 2] + shared[self.ofat[:, 1]]

    @cached_property
    def runs(self) -> np.ndarray:
        """The first word line of every run of ``k_w`` driven neighbours, ``(rounds, B_in * k_h)``.

        They ascend. The short block that may end a row has fewer; its places are filled with -1.
        """
        e_h, e_w = self.spec.epitome[2:]
        channel = np.arange(self.spec.block[1])
        start = channel[:, None] * (e_h * e_w) + np.arange(self.spec.kernel_size[0]) * e_w
        start = np.where(channel[:, None] < self.ifat[:, 1, None, None], self.ifrt[:, :, None] + start, -1)
        return start.reshape(self.rounds, -1)

    def word_lines(self, number: int) -> np.ndarray:
        """Return the word lines that round ``number`` drives, one per fetched input, channel by channel."""
        runs = self.runs[number]
        return (runs[runs >= 0][:, None] + np.arange(self.spec.kernel_size[1])).reshape(-1)

    def to_frames(self) -> "dict[str, pd.DataFrame]":
        """Return the tables as DataFrames: IFAT, IFRT, OFAT and the copies of OFAT."""
        import pandas as pd

        columns = {
            "IFAT": ["first input channel", "input channels"],
            "IFRT": ["first word line"],
            "OFAT": ["first column", "first output channel", "output channels", "extends"],
            "copies": ["first output channel of the source", "of the copy", "output channels"],
        }
        tables = zip(columns, (self.ifat, self.ifrt, self.ofat, self.copies), strict=True)
        frames = {name: pd.DataFrame(table, columns=columns[name]).rename_axis("round") for name, table in tables}
        frames["OFAT"]["extends"] = frames["OFAT"]["extends"].astype(bool)
        return frames | {"copies": frames["copies"].rename_axis("copy")}

    def __str__(self) -> str:
        counts = [(self.rounds, "round"), (len(self.copies), "copied block"), (self.bits, "bit")]
        head = ", ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in counts)
        return "\n".join([head, *(f"{name}\n{frame.to_string()}" for name, frame in self.to_frames().items())])

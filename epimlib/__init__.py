"""epimlib: epitomes, their quantization and their cost on processing-in-memory crossbars.

Importing the package imports neither torch nor timm.
"""

from epimlib.design import Design
from epimlib.pim.cost import evaluate, evaluate_many
from epimlib.pim.hardware import Hardware
from epimlib.pim.mapping import map_crossbars
from epimlib.pim.report import compare
from epimlib.plan import EpitomeSpec, Plan
from epimlib.workload import Workload

__all__ = [
    "Design",
    "EpitomeSpec",
    "Hardware",
    "Plan",
    "Workload",
    "compare",
    "evaluate",
    "evaluate_many",
    "map_crossbars",
]
__version__ = "0.1.0"

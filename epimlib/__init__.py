"""epimlib: epitomes, their quantization and their cost on processing-in-memory crossbars.

Importing the package imports neither torch nor timm.
"""

from epimlib.epitome.design import Design
from epimlib.epitome.plan import EpitomeSpec, Plan
from epimlib.epitome.workload import Workload
from epimlib.pim.evaluate import evaluate
from epimlib.pim.hardware import Hardware
from epimlib.pim.mapping import map_crossbars
from epimlib.pim.report import compare
from epimlib.search.table import evaluate_many

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

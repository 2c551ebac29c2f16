"""The library for the device: opens a package, and gives the embedding and the explanation mask of images."""

from runtime.anomaly.bank import Bank
from runtime.anomaly.watch import Anomaly, Watch, fit_bank
from runtime.comparison import Comparison
from runtime.device_explanation import DeviceExplanation
from runtime.embedder import Embedder
from runtime.errors import (
    BackendError,
    BackendUnavailable,
    EngineMismatch,
    ExportError,
    InputError,
    IntegrityError,
    MaskerMismatch,
    NemuError,
    OutputExists,
    PackageError,
    ParityError,
    SchemaError,
    UnusableOutput,
)
from runtime.explainer import Explainer
from runtime.explanation import Explanation
from runtime.index import Index
from runtime.package.folder import Package
from runtime.package.manifest import Manifest

__version__ = "0.2.0"

__all__ = [
    "Anomaly",
    "BackendError",
    "BackendUnavailable",
    "Bank",
    "Comparison",
    "DeviceExplanation",
    "Embedder",
    "EngineMismatch",
    "Explainer",
    "Explanation",
    "ExportError",
    "Index",
    "InputError",
    "IntegrityError",
    "Manifest",
    "MaskerMismatch",
    "NemuError",
    "OutputExists",
    "Package",
    "PackageError",
    "ParityError",
    "SchemaError",
    "UnusableOutput",
    "Watch",
    "__version__",
    "fit_bank",
]

"""Mechanisms, their costs, calibration and accounting."""

from fedpipe.privacy.accounting import accountant_name, epsilon
from fedpipe.privacy.calibration import Demand, Shares, calibrate
from fedpipe.privacy.events import DiscreteGaussianDpEvent, event_from_json, event_to_json
from fedpipe.privacy.mechanisms import DpSgd, NoisyHistograms
from fedpipe.privacy.plan import PrivacyPlan, Query
from fedpipe.privacy.randomness import Randomness, SecureRandomness, SeededRandomness
from fedpipe.privacy.units import UserUnit

__all__ = [
    "Demand",
    "DiscreteGaussianDpEvent",
    "DpSgd",
    "NoisyHistograms",
    "PrivacyPlan",
    "Query",
    "Randomness",
    "SecureRandomness",
    "SeededRandomness",
    "Shares",
    "UserUnit",
    "accountant_name",
    "calibrate",
    "epsilon",
    "event_from_json",
    "event_to_json",
]

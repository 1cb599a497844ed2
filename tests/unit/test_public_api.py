"""What packages offer. A change here is a change for whoever uses them."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "fedpipe": ["__version__"],
    "fedpipe.config": [
        "AnalyzeSettings",
        "Config",
        "FederationSettings",
        "MAX_SPANS",
        "SpanSettings",
        "ValidateSettings",
        "config_names",
        "find_config",
        "load_config",
        "parse_config",
    ],
    "fedpipe.data": [
        "CategoricalColumn",
        "Label",
        "NumericColumn",
        "PreprocessSettings",
        "Schema",
        "Shard",
        "Transform",
        "commitment",
        "open_shard",
    ],
    "fedpipe.federation": ["Clients", "Refusal", "Reply", "Request"],
    "fedpipe.learning": ["ModelDefinition", "ModelSettings", "TrainingSettings"],
    "fedpipe.ledger": [
        "Block",
        "BlockPolicy",
        "Entry",
        "Ledger",
        "LedgerStore",
        "ReleaseId",
        "SignedHead",
        "Spending",
        "StepCost",
        "epsilon_over_blocks",
        "policy_for_budget",
        "policy_for_runs",
        "utc_now",
    ],
    "fedpipe.pipeline": [
        "ArtifactFile",
        "ArtifactRecord",
        "Clock",
        "ExecutionRecord",
        "ExecutionState",
        "MetadataReader",
        "MetadataStore",
        "Pipeline",
        "Progress",
        "RunRecord",
        "RunStatus",
        "SilentProgress",
        "Step",
        "Workspace",
        "run_pipeline",
    ],
    "fedpipe.privacy": [
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
    ],
    "fedpipe.reports": ["RunSummary"],
}


@pytest.mark.parametrize("package", sorted(PUBLIC))
def test_a_package_offers_what_it_says(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == PUBLIC[package]
    for name in module.__all__:
        assert hasattr(module, name)


@pytest.mark.parametrize("package", ["clients", "server", "simulations"])
def test_the_other_packages_offer_modules_only(package: str) -> None:
    assert not hasattr(importlib.import_module(package), "__all__")

"""What a data owner allows. Her node decides by this, whatever a coordinator asks."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict, Field

from clients.site_policy import ModelType, SitePolicy, Step
from fedpipe.errors import LedgerError
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import ModelDefinition
from fedpipe.learning.footprint import training_bytes
from fedpipe.ledger import BlockPolicy, policy_for_budget, policy_for_runs
from fedpipe.privacy import DpSgd, PrivacyPlan
from fedpipe.privacy.units import Unit

DEFAULT_EPSILON = 1.0


class NodePolicy(BaseModel):
    """The owner's settings. A coordinator cannot change any of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lifetime_epsilon: float | None = Field(None, gt=0, description="Lifetime budget of a new block.")
    lifetime_delta: float = Field(1e-5, gt=0, lt=1, description="Delta of that budget.")
    lifetime_runs: int | None = Field(
        None,
        ge=1,
        description="Alternatively: a new block affords this many runs like its first (simulations).",
    )
    allowed_steps: tuple[Step, ...] | None = Field(
        None, description="Steps that may ask for releases; none: all."
    )
    allowed_models: tuple[ModelType, ...] | None = Field(
        None, description="Architectures that may be trained; none: all."
    )
    min_cohort: int = Field(1, ge=1, description="Runs that would go on with fewer clients are refused.")
    max_memory_mib: int | None = Field(
        None, ge=1, description="What a model may take, estimated from its settings; none: no bound."
    )
    allow_not_private: bool = Field(False, description="Whether runs without privacy may read the records.")
    unit: Unit | None = Field(None, description="The unit that private plans must have; None accepts any.")
    seed: int | None = Field(
        None, description="Seed for plans with seeded randomness (tests); None refuses them."
    )

    @classmethod
    def of_site(cls, site: SitePolicy) -> NodePolicy:
        """Returns what a real node checks each request against."""
        return cls.model_validate(
            {
                "lifetime_epsilon": site.block_epsilon,
                "lifetime_delta": site.block_delta,
                "allowed_steps": site.allowed_steps,
                "allowed_models": site.allowed_models,
                "min_cohort": site.min_cohort,
                "max_memory_mib": site.max_memory_mib,
            }
        )

    def check(self, terms: RunTerms) -> None:
        """Raises LedgerError when `terms` are not allowed."""
        self._check_site(terms)
        plan = terms.plan
        if not plan.private and not self.allow_not_private:
            raise LedgerError("Expected a private plan, found privacy.enabled=false: refused by policy.")
        if plan.randomness == "seeded" and self.seed is None:
            raise LedgerError(
                "Expected secure randomness, found a plan with a seeded generator: refused by policy."
            )
        if plan.private and plan.keyed != terms.data_schema.has_lasting_splits:
            raise LedgerError(
                "Expected separate budgets for training and evaluation exactly when the schema has a key or "
                "names users, found otherwise: an amended record could change its block."
            )
        if plan.private and self.unit not in (None, plan.unit):
            raise LedgerError(
                f"Expected a plan whose unit is the {self.unit}, found {plan.unit}: refused by policy."
            )
        if plan.user is not None and plan.user.column != terms.data_schema.user:
            raise LedgerError(
                f"Expected the plan's users in the schema's column {terms.data_schema.user!r}, found "
                f"{plan.user.column!r}: records would be told apart in another way."
            )

    def _check_site(self, terms: RunTerms) -> None:
        model = terms.model.type
        if self.allowed_models is not None and model not in self.allowed_models:
            raise LedgerError(
                f"Expected a model of type {' or '.join(self.allowed_models)}, found {model}: refused by "
                "policy."
            )
        if terms.training.min_cohort < self.min_cohort:
            raise LedgerError(
                f"Expected training.min_cohort={self.min_cohort} or more, found {terms.training.min_cohort}: "
                "refused by policy."
            )

        # Every column makes an input or more; how many, only the fitted preprocessing tells.
        schema = terms.data_schema
        least = ModelDefinition(
            settings=terms.model, num_features=len(schema.columns), num_classes=schema.num_classes
        )
        self.check_memory(terms, least)

    def check_memory(self, terms: RunTerms, definition: ModelDefinition, num_weights: int = 0) -> None:
        """Raises LedgerError when the model of `terms` on these inputs would take more than is allowed.

        By public values alone: what records there are decides nothing.
        """
        if self.max_memory_mib is None:
            return
        query = terms.plan.queries.get("training")
        planned = query.mechanism.local_steps if query and isinstance(query.mechanism, DpSgd) else 1
        needed = training_bytes(
            definition,
            terms.training,
            local_steps=max(terms.training.local_steps, planned),
            max_records=terms.plan.max_records,
            num_weights=num_weights,
        )
        if needed > self.max_memory_mib << 20:
            raise LedgerError(
                f"Expected a model that takes {self.max_memory_mib} MiB at most, found one of about "
                f"{needed >> 20} MiB: refused by policy (max_memory_mib). Fewer inputs, hidden_units or "
                "local_steps take less."
            )

    def check_steps(self, steps: Collection[str]) -> None:
        """Raises LedgerError when one of `steps` may not ask for releases."""
        refused = [] if self.allowed_steps is None else sorted(set(steps) - set(self.allowed_steps))
        if refused:
            raise LedgerError(
                f"Expected steps among {', '.join(self.allowed_steps or ())}, found {refused[0]}: refused by "
                "policy."
            )

    def block_policy(self, plan: PrivacyPlan) -> BlockPolicy:
        """Returns the budget of a block that `plan` is the first to use."""
        if self.lifetime_epsilon is None and self.lifetime_runs is not None:
            return policy_for_runs(plan, self.lifetime_runs)
        return policy_for_budget(self.lifetime_epsilon or DEFAULT_EPSILON, self.lifetime_delta)

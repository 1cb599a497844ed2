"""Forgers: each knows some keys, changes something, and is told by the name of what differs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fedpipe.errors import FedpipeError, LedgerError
from fedpipe.files import canonical_json
from fedpipe.ledger import verify as verify_module
from fedpipe.ledger.attestation import Attestation, Statement, attest, plan_digest
from fedpipe.ledger.certificate import (
    Certificate,
    CodeDigests,
    Commitment,
    Dropout,
    EarlierRun,
    RefusedClaim,
    StepReleases,
)
from fedpipe.ledger.certificate_making import make_certificate, planned_releases
from fedpipe.ledger.certificate_schema import certificate_schema
from fedpipe.ledger.nist import NIST_SP_800_226
from fedpipe.ledger.verify import CLIENT, COORDINATOR, Anchors, Verification, verify_certificate
from fedpipe.privacy import PrivacyPlan
from fedpipe.provenance import code_digest
from fedpipe.signing import SigningKey, hold_key

STEPS = ("statistics", "preprocess", "train", "analyze")
CLIENTS = ("ada", "bob")
RECORDS = {"ada": "ab" * 32, "bob": "cd" * 32}
PAGE = Path(__file__).parents[3] / "docs" / "certificate.md"
SCHEMA = Path(verify_module.__file__).with_name("certificate.schema.json")


@dataclass(frozen=True)
class World:
    """A signed certificate of two clients, everybody's keys, and a forger's."""

    folder: Path
    plan: PrivacyPlan
    operator: SigningKey
    forger: SigningKey
    clients: dict[str, SigningKey]

    def vouch(self, name: str, key: SigningKey | None = None, **change: Any) -> Attestation:
        statement = Statement(
            run_id="run-1",
            client=name,
            account=f"problem.{name}",
            steps=STEPS,
            plan_sha256=plan_digest(self.plan),
            terms_sha256="ee" * 32,
            commitments={"undated": RECORDS[name]},
            code_sha256=code_digest(CLIENT),
        )
        return attest(statement.model_copy(update=change), key or self.clients[name])

    def releases(self, made: int | None = 2, **by: str) -> tuple[StepReleases, ...]:
        return tuple(
            StepReleases(
                step=step,
                run_id=by.get(step, "run-1"),
                planned_per_client=planned_releases(self.plan, step),
                made=made,
            )
            for step in STEPS
        )

    def certificate(self, **change: Any) -> Certificate:
        values: dict[str, Any] = {
            "run_id": "run-1",
            "model": "complaints",
            "model_version": 3,
            "issued_at": "2026-01-02T03:04:05+00:00",
            "terms_sha256": "ee" * 32,
            "commitments": [Commitment(client=c, span="undated", hmac_sha256=RECORDS[c]) for c in CLIENTS],
            "attestations": [self.vouch(client) for client in CLIENTS],
            "releases": self.releases(),
            "dropouts": [Dropout(server_round=2, client="ada")],
            "code": CodeDigests(
                coordinator=code_digest(COORDINATOR), clients=dict.fromkeys(CLIENTS, code_digest(CLIENT))
            ),
            "versions": {"fedpipe": "0.1.0"},
        }
        return make_certificate(self.plan, **values | change)

    def raw(self, **change: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.certificate(**change).signed(self.operator).model_dump_json())
        return found

    def sign(self, raw: dict[str, Any], key: SigningKey) -> dict[str, Any]:
        content = {name: value for name, value in raw.items() if name != "signature"}
        return content | {"signature": {"public_key": key.public, "signature": key.sign(content)}}

    def write(self, raw: Any) -> Path:
        path = self.folder / "certificate.json"
        path.write_text(raw if isinstance(raw, str) else json.dumps(raw))
        return path

    @property
    def anchors(self) -> Anchors:
        known = {name: key.public for name, key in self.clients.items()}
        return Anchors(operators=frozenset({self.operator.public}), clients=known)

    def verify(self, raw: Any, anchors: Anchors | None = None, *, code: bool = False) -> Verification:
        return verify_certificate(self.write(raw), anchors or self.anchors, check_code=code)


@pytest.fixture
def world(tmp_path: Path, planner: Callable[..., PrivacyPlan]) -> World:
    keys = {name: hold_key(tmp_path / name) for name in ("operator", "forger", *CLIENTS)}
    clients = {name: keys[name] for name in CLIENTS}
    return World(tmp_path, planner(), keys["operator"], keys["forger"], clients)


def event_of(raw: dict[str, Any], query: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        each["event"] for each in raw["blocks"][0]["queries"] if each["query"] == query
    )
    return found


def test_a_true_certificate_is_verified_to_the_last_part(world: World) -> None:
    found = world.verify(world.raw(), code=True)
    assert (found.differences, found.notes) == ((), ())
    assert found.verified
    assert max(found.recomputed.values()) == pytest.approx(world.plan.total_epsilon(), rel=1e-12)
    assert found.to_json()["attested_by"] == ["ada", "bob"]


def test_verification_does_not_depend_on_how_the_json_is_laid_out(world: World) -> None:
    assert world.verify(canonical_json(world.raw())).verified
    assert world.verify(json.dumps(world.raw(), indent=7, ensure_ascii=True)).verified


def test_without_a_key_to_trust_nothing_is_verified(world: World) -> None:
    found = world.verify(world.raw(), Anchors())
    [difference] = found.differences
    assert difference.startswith(f"signer: unknown; {world.operator.public}")
    assert "--key" in difference
    assert "--client-key" in found.notes[0]


def test_an_unsigned_certificate_is_not_verified(world: World) -> None:
    assert world.verify(world.raw() | {"signature": None}).differences == ("signature: there is none",)


# --- forgers without the operator's key ------------------------------------------------------------


def test_an_edited_event_under_the_old_signature_is_named(world: World) -> None:
    raw = world.raw()
    event_of(raw, "training")["event"]["event"]["event"]["noise_multiplier"] = 3.0
    differences = world.verify(raw).differences
    assert "signature: it does not fit the content, which was changed after it was signed" in differences
    assert "block train: the event of training is not what the plan charges" in differences
    assert any(each.startswith("block train: epsilon is") for each in differences)


def test_a_forger_who_edits_an_event_and_signs_anew_is_named(world: World) -> None:
    raw = world.raw()
    event_of(raw, "training")["event"]["event"]["sampling_probability"] = 0.1
    differences = world.verify(world.sign(raw, world.forger)).differences
    assert differences[0].startswith(f"signer: {world.forger.public} signed")
    assert "block train: the event of training is not what the plan charges" in differences


@pytest.mark.parametrize(
    "path",
    [
        ("issued_at",),
        ("not_proven",),
        ("nist_sp_800_226",),
        ("versions",),
        ("model",),
        ("code", "coordinator"),
        ("privacy", "accountant"),
        ("commitments",),
        ("dropouts",),
        ("signature", "signature"),
    ],
    ids="/".join,
)
def test_any_edit_breaks_the_signature(world: World, path: tuple[str, ...]) -> None:
    raw = world.raw()
    *outer, last = path
    place: Any = raw
    for name in outer:
        place = place[name]
    old = place[last]
    place[last] = "A" * 86 + "==" if last == "signature" else type(old)() if not isinstance(old, str) else "x"
    assert any(each.startswith("signature: it does not fit") for each in world.verify(raw).differences)


# --- forgers with the operator's key ---------------------------------------------------------------


def make_weaker(raw: dict[str, Any]) -> None:
    """A plan with more noise than was added, and everything that follows from it."""
    plan = PrivacyPlan.model_validate(raw["plan"])
    training = plan.queries["training"]
    noisier = training.mechanism.model_copy(update={"noise_multiplier": 20.0})
    queries = plan.queries | {"training": training.model_copy(update={"mechanism": noisier})}
    plan = plan.model_copy(update={"queries": queries})
    forged = make_certificate(plan, run_id="run-1", model="m", model_version=1, commitments=[])
    for name in ("plan", "plan_sha256", "blocks", "privacy", "mechanisms"):
        raw[name] = json.loads(forged.model_dump_json())[name]


def test_who_has_the_operator_s_key_cannot_certify_another_plan(world: World) -> None:
    raw = world.raw()
    make_weaker(raw)
    assert world.verify(world.sign(raw, world.operator)).differences == tuple(
        f"client {client}: it vouched for another plan (plan_sha256) in run run-1" for client in CLIENTS
    )


def test_attestations_made_up_by_the_operator_have_other_keys_than_the_clients(world: World) -> None:
    raw = world.raw()
    make_weaker(raw)
    forged = PrivacyPlan.model_validate(raw["plan"])
    raw["attestations"] = [
        world.vouch(client, key=world.forger, plan_sha256=plan_digest(forged)).model_dump(mode="json")
        for client in CLIENTS
    ]
    differences = world.verify(world.sign(raw, world.operator)).differences
    assert differences == tuple(
        f"client {client}: its attestation is signed by {world.forger.public}, not by the key that you gave"
        for client in CLIENTS
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"plan_sha256": "00" * 32}, "another plan (plan_sha256)"),
        ({"terms_sha256": "00" * 32}, "another terms (terms_sha256)"),
        ({"commitments": {"undated": "00" * 32}}, "another records (commitments)"),
        ({"commitments": {}}, "another records (commitments)"),
        ({"code_sha256": "00" * 32}, "another code (code_sha256)"),
        ({"steps": ("statistics",)}, "did not vouch for step train"),
        ({"run_id": "run-0"}, "it vouches for nothing in run run-1"),
        ({"client": "bob"}, "there are 2 attestations for run run-1"),
    ],
    ids=str,
)
def test_what_a_client_did_not_vouch_for_is_named(world: World, change: dict[str, Any], named: str) -> None:
    attestations = [world.vouch("ada", **change), world.vouch("bob")]
    assert any(named in each for each in world.verify(world.raw(attestations=attestations)).differences)


def test_an_edited_attestation_is_named(world: World) -> None:
    raw = world.raw()
    raw["attestations"][0]["statement"]["account"] = "other"
    [difference] = world.verify(world.sign(raw, world.operator)).differences
    assert difference == "client ada: the signature of its attestation does not fit"


def test_a_left_out_client_is_named_unless_it_refused(world: World) -> None:
    alone = [world.vouch("ada")]
    found = world.verify(world.raw(attestations=alone, releases=world.releases(made=1))).differences
    assert "client bob: it vouches for nothing in run run-1" in found
    assert "client bob: you gave its key, and it vouches for nothing here" in found
    refused = [RefusedClaim(run_id="run-1", client="bob")]
    raw = world.raw(attestations=alone, refused_claims=refused, releases=world.releases(made=1))
    assert world.verify(raw, replace(world.anchors, clients={})).verified
    both = world.verify(world.raw(refused_claims=refused)).differences
    assert both == ("client bob: it refused the claim of run run-1, and yet vouches for it",)


def test_a_stranger_s_attestation_is_named(world: World) -> None:
    commitments = [Commitment(client="ada", span="undated", hmac_sha256=RECORDS["ada"])]
    [difference] = world.verify(world.raw(commitments=commitments, dropouts=())).differences
    assert difference == "client bob: it vouches for run run-1, and committed to no records"


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        place: Any = raw
        *outer, last = path.split(".")
        for name in outer:
            place = place[int(name) if name.isdigit() else name]
        del place[int(last)]

    return change


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        place: Any = raw
        *outer, last = path.split(".")
        for name in outer:
            place = place[int(name) if name.isdigit() else name]
        place[int(last) if last.isdigit() else last] = value

    return change


def repeat(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw[name].append(raw[name][0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (drop("blocks.0.queries.0"), "block train: the event of labels is missing"),
        (drop("blocks.1"), "block eval: the plan has it, the certificate does not"),
        (repeat("blocks"), "block train: it is listed twice"),
        (put("blocks.0.queries.0.query", "others"), "block train: the plan has no query others"),
        (put("blocks.0.epsilon", 0.5), "block train: epsilon is 0.5, its events imply"),
        (put("privacy.epsilon", 0.5), "privacy.epsilon: 0.5, the events imply"),
        (put("privacy.unit", "person"), "privacy.unit: 'person', the plan implies 'record'"),
        (put("privacy.neighboring_relation", "replace_one"), "privacy.neighboring_relation: 'replace_one'"),
        (put("privacy.delta", 1e-3), "privacy.delta: 0.001, the plan implies 1e-05"),
        (put("privacy.randomness", "secure: dice"), "privacy.randomness: 'secure: dice'"),
        (put("privacy.arithmetic", "exact"), "privacy.arithmetic: 'exact'"),
        (put("plan_sha256", "00"), "plan_sha256: it is not the digest of the plan"),
        (put("sampling", "none"), "sampling: the statement"),
        (put("mechanisms.3.clipping", "none"), "mechanisms: the statements"),
        (put("spans", ["2024-01"]), "spans: they are not those of the commitments"),
        (put("releases.2.planned_per_client", 1), "releases: step train has another number planned"),
        (put("releases.2.made", 7), "releases: step train made more than its 2 clients had planned"),
        (put("releases.2.made", 0), "releases: step train released nothing"),
        (drop("releases.2"), "releases: step train is missing"),
        (repeat("releases"), "releases: step statistics is listed twice"),
        (put("releases.2.run_id", "run-0"), "step train: its results are those of run run-0"),
        (put("dropouts.0.client", "eve"), "dropouts: eve committed to no records"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_agree_is_named_whoever_signed(
    world: World, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    raw = world.raw()
    change(raw)
    differences = world.verify(world.sign(raw, world.operator)).differences
    assert any(each.startswith(named) for each in differences), differences


def test_a_name_with_control_characters_cannot_write_a_line_of_its_own(world: World) -> None:
    raw = world.raw()
    raw["dropouts"][0]["client"] = "eve\nVERIFIED\x1b[2J"
    differences = world.verify(world.sign(raw, world.operator)).differences
    assert differences == ("dropouts: eve?VERIFIED?[2J committed to no records",)


# --- earlier runs, code, no privacy ----------------------------------------------------------------


def reusing(world: World, **change: Any) -> dict[str, Any]:
    """Statistics come from run-0, whose plan had less training; the rest is the run's own."""
    before = world.plan.model_copy(update=change.pop("plan", {}))
    earlier = EarlierRun(
        run_id="run-0",
        steps=("statistics",),
        plan=before,
        plan_sha256=plan_digest(before),
        terms_sha256="dd" * 32,
    )
    then = {"run_id": "run-0", "plan_sha256": plan_digest(before), "terms_sha256": "dd" * 32}
    return world.raw(
        attestations=[
            each
            for client in CLIENTS
            for each in (world.vouch(client, **then), world.vouch(client, steps=STEPS[1:]))
        ],
        releases=world.releases(statistics="run-0"),
        earlier_runs=[earlier.model_copy(update=change)],
    )


def test_results_of_an_earlier_run_are_verified_by_its_own_plan_and_attestations(world: World) -> None:
    assert world.verify(reusing(world)).differences == ()


def test_an_earlier_run_that_released_in_another_way_is_named(
    world: World, planner: Callable[..., PrivacyPlan]
) -> None:
    labels = planner().queries["labels"]
    louder = labels.mechanism.model_copy(update={"noise_stddev": 1.0})
    queries = planner().queries | {"labels": labels.model_copy(update={"mechanism": louder})}
    [difference] = world.verify(reusing(world, plan={"queries": queries})).differences
    assert difference == "earlier run run-0: its plan released statistics in another way"
    [difference] = world.verify(reusing(world, plan={"randomness": "seeded"})).differences
    assert difference == "earlier run run-0: its randomness is another"
    named = world.verify(reusing(world, plan_sha256="00" * 32)).differences
    assert "earlier run run-0: plan_sha256 is not the digest of its plan" in named


def test_other_code_is_a_note_or_with_code_a_difference(world: World) -> None:
    code = CodeDigests(coordinator="00" * 32, clients={"ada": "11" * 32, "bob": code_digest(CLIENT)})
    attestations = [world.vouch("ada", code_sha256="11" * 32), world.vouch("bob")]
    raw = world.raw(code=code, attestations=attestations)
    lines = (
        "code: the coordinator's is not what is installed here",
        "code: that of ada is not what is installed here",
    )
    assert (world.verify(raw).differences, world.verify(raw).notes) == ((), lines)
    assert world.verify(raw, code=True).differences == lines


def test_a_run_without_privacy_is_verified_as_that(world: World) -> None:
    open_plan = PrivacyPlan(
        private=False, epsilon=1.0, delta=1e-5, keyed=True, randomness="secure", queries={}
    )
    found = replace(world, plan=open_plan)
    verified = found.verify(found.raw())
    assert verified.differences == ()
    assert verified.notes == ("NOT PRIVATE: the certificate promises nothing",)
    raw = found.raw()
    raw["privacy"] |= {"status": "private", "epsilon": 1.0, "delta": 1e-5}
    named = [each.split(":")[0] for each in found.verify(found.sign(raw, found.operator)).differences]
    assert {"privacy.status", "privacy.epsilon", "privacy.delta"} <= set(named)


# --- files that are no certificates ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"text"',
        "{}",
        '{"format": "other"}',
        "\x00\xff",
        '{"format": "fedpipe privacy certificate", "format": "fedpipe privacy certificate"}',
        '{"format": "fedpipe privacy certificate", "version": 1}',
        '{"format": "fedpipe privacy certificate", "version": NaN}',
        '{"format": "fedpipe privacy certificate", "version": "\\n2"}',
        '{"format": "fedpipe privacy certificate", "version": 2}',
        "[" * 100_000,
        '{"format": "fedpipe privacy certificate", "version": 2, "run_id": ' + "9" * 5000 + "}",
    ],
    ids=range(15),
)
def test_files_that_are_no_certificate_are_one_clear_line(world: World, text: str) -> None:
    with pytest.raises(LedgerError, match=r"^Expected ") as caught:
        world.verify(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_cut_a_missing_and_a_huge_file_are_one_clear_line(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(world.raw())
    for part in (text[: len(text) // 2], text[:-1]):
        with pytest.raises(LedgerError, match=r"^Expected JSON"):
            world.verify(part)
    for path in (world.folder / "none.json", world.folder):
        with pytest.raises(LedgerError, match=r"^Expected a certificate in"):
            verify_certificate(path, world.anchors)
    monkeypatch.setattr(verify_module, "MAX_BYTES", 1 << 20)
    with pytest.raises(LedgerError, match="found more"):
        world.verify(" " * (1 << 20) + text)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("blocks.0.queries.0.event", {"version": 1, "type": "Free"}),
        ("blocks.0.queries.0.event", {"version": 1, "type": "SelfComposed", "count": -3}),
        ("blocks.0.queries.0.event.version", 9),
        ("plan.queries.training.mechanism.noise_multiplier", 0),
        ("plan.queries.training.mechanism.kind", "none"),
        ("plan.unknown", 1),
        ("attestations.0.statement.kind", "other"),
        ("privacy.delta", 7),
        ("run_id", 5),
    ],
    ids=str,
)
def test_what_no_version_of_fedpipe_could_have_written_is_an_error(
    world: World, path: str, value: Any
) -> None:
    raw = world.raw()
    put(path, value)(raw)
    with pytest.raises(FedpipeError, match=r"^Expected"):
        world.verify(world.sign(raw, world.operator))


# --- the published schema --------------------------------------------------------------------------


def test_the_published_schema_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text()) == certificate_schema(), (
        "run: fedpipe budget schema > fedpipe/ledger/certificate.schema.json"
    )


def test_certificates_fit_the_published_schema_and_others_do_not(world: World) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for raw in (world.raw(), reusing(world)):
        validator.validate(raw)
        for wrong in ({"version": 1}, {"blocks": None}, {"more": 1}, {"signature": {}}):
            assert not validator.is_valid(raw | wrong)
        assert not validator.is_valid({name: value for name, value in raw.items() if name != "plan"})
        event_of(raw, "training")["event"]["event"]["sampling_probability"] = 1.5
        assert not validator.is_valid(raw)


# --- the page --------------------------------------------------------------------------------------


def script() -> str:
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def run_script(world: World, raw: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    path = world.folder / "check_certificate.py"
    path.write_text(script())
    arguments = [str(path), str(world.write(raw)), world.operator.public]
    return subprocess.run(
        [sys.executable, "-I", *arguments], capture_output=True, text=True, check=False, timeout=100
    )


def test_the_script_of_the_page_recomputes_epsilon_with_nothing_of_fedpipe(world: World) -> None:
    assert "fedpipe" not in script()
    done = run_script(world, world.raw())
    assert done.returncode == 0, done.stderr
    epsilon, unit = done.stdout.split(" for each ")
    assert float(epsilon) == pytest.approx(world.plan.total_epsilon(), rel=1e-4)
    assert unit == "record\n"


def test_the_script_of_the_page_sees_forgers(world: World) -> None:
    edited, weaker, prouder = world.raw(), world.raw(), world.raw()
    event_of(edited, "training")["count"] = 1
    make_weaker(weaker)
    prouder["privacy"]["unit"] = "user"
    for raw, said in (
        (edited, "InvalidSignature"),
        (world.sign(edited, world.forger), "differs: signer"),
        (world.sign(edited, world.operator), "differs: events of train"),
        (world.sign(weaker, world.operator), "differs: plan of ada"),
        (world.sign(prouder, world.operator), "differs: unit"),
    ):
        done = run_script(world, raw)
        assert done.returncode != 0
        assert said in done.stderr


def test_the_page_explains_every_field_and_maps_every_factor() -> None:
    page = PAGE.read_text()
    fields = page[page.index("## Fields") : page.index("An event is one of")]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", fields, re.MULTILINE)))) == set(
        Certificate.model_fields
    )
    rows = dict(re.findall(r"^\| (\d\.\d) \| .*? \| (.*?) \|$", page, re.MULTILINE))
    assert list(rows) == [each.section for each in NIST_SP_800_226]
    for each in NIST_SP_800_226:
        assert tuple(re.findall(r"`(.*?)`", rows[each.section])) == each.fields


def test_the_fields_that_answer_nist_exist(world: World) -> None:
    raw = world.raw()
    for path in (path for each in NIST_SP_800_226 for path in each.fields):
        place: Any = raw
        for name in path.split("."):
            place = place[name]

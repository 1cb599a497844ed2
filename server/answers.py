"""Who answered what: so that a certificate can say how many releases were made, and metrics how it went.

One line for each question, appended when its answers have come. A line may be torn by a crash,
and a resumed run may repeat one: readers leave out the first and count the second once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.federation import Refusal, Reply, Request
from fedpipe.files import make_private_directory

ANSWERS = "answers.jsonl"


class Answers(BaseModel):
    """What one question came to: who answered, the kinds of the others' refusals, and how long it took."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: str
    round: int
    clients: tuple[str, ...]
    refused: dict[str, str] = {}
    seconds: float = 0.0


def note_answers(
    directory: Path, request: Request, replies: Sequence[Reply], refusals: Sequence[Refusal], seconds: float
) -> None:
    """Appends to the record of the run in `directory` what `request` came to."""
    answers = Answers(
        step=request.step,
        round=request.server_round,
        clients=tuple(each.client for each in replies),
        refused={each.client: each.kind for each in refusals},
        seconds=seconds,
    )
    make_private_directory(directory)
    descriptor = os.open(directory / ANSWERS, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
        stream.write("\n" + answers.model_dump_json())  # first, so that a torn line spoils no other


def read_answers(directory: Path) -> list[Answers] | None:
    """Returns what each question of the run in `directory` came to, or None where it kept no record."""
    try:
        lines = (directory / ANSWERS).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    found = []
    for line in lines:
        with suppress(ValidationError):
            found.append(Answers.model_validate_json(line))
    return found


def count_answers(directory: Path) -> dict[str, int] | None:
    """Returns by step how many answers the run in `directory` had, or None where it kept no record."""
    noted = read_answers(directory)
    if noted is None:
        return None
    answered: dict[str, set[tuple[int, str]]] = {}
    for found in noted:
        answered.setdefault(found.step, set()).update((found.round, name) for name in found.clients)
    return {step: len(pairs) for step, pairs in answered.items()}

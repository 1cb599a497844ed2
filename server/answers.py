"""Who answered what: so that a certificate can say how many releases were made.

One line for each question, appended when its answers have come. A line may be torn by a crash,
and a resumed run may repeat one: readers leave out the first and count the second once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from fedpipe.federation import Reply, Request
from fedpipe.files import make_private_directory

ANSWERS = "answers.jsonl"


def note_answers(directory: Path, request: Request, replies: Sequence[Reply]) -> None:
    """Appends to the record of the run in `directory` who answered `request`."""
    line = {"step": request.step, "round": request.server_round, "clients": [each.client for each in replies]}
    make_private_directory(directory)
    descriptor = os.open(directory / ANSWERS, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps(line))  # first, so that a torn line spoils no other


def count_answers(directory: Path) -> dict[str, int] | None:
    """Returns by step how many answers the run in `directory` had, or None where it kept no record."""
    try:
        lines = (directory / ANSWERS).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    answered: dict[str, set[tuple[int, str]]] = {}
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        answered.setdefault(found["step"], set()).update((found["round"], name) for name in found["clients"])
    return {step: len(pairs) for step, pairs in answered.items()}

"""What sets the secure generator apart from the seeded one. Their common promises: tests/contract."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import numpy as np
import pytest

from fedpipe.privacy import Randomness, SecureRandomness, SeededRandomness


def draw(randomness: Randomness) -> tuple[list[float], list[int], list[bool]]:
    return (
        randomness.normal(4).tolist(),
        randomness.discrete_gaussian(1e9, 4).tolist(),
        randomness.bernoulli(0.5, 128).tolist(),
    )


def test_kinds_say_which_is_which() -> None:
    assert SecureRandomness().kind == "secure"
    assert SeededRandomness(1).kind == "seeded"


def test_the_same_seed_repeats_and_another_does_not() -> None:
    assert draw(SeededRandomness([3, 4])) == draw(SeededRandomness([3, 4]))
    for mine, other in zip(draw(SeededRandomness([3, 4])), draw(SeededRandomness([3, 5])), strict=True):
        assert mine != other


def test_secure_generators_never_repeat() -> None:
    for mine, other in zip(draw(SecureRandomness()), draw(SecureRandomness()), strict=True):
        assert mine != other


def test_secure_draws_ignore_every_seed_of_the_process() -> None:
    np.random.seed(7)  # noqa: NPY002
    first = draw(SecureRandomness())
    np.random.seed(7)  # noqa: NPY002
    for mine, other in zip(first, draw(SecureRandomness()), strict=True):
        assert mine != other


def _send(sender: Connection) -> None:
    sender.send(draw(SecureRandomness()))


def test_forked_processes_do_not_share_their_noise() -> None:
    # A generator with state in the process would give both children the same stream.
    draw(SecureRandomness())
    context = multiprocessing.get_context("fork")
    drawn = []
    for _ in range(2):
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_send, args=(sender,))
        child.start()
        drawn.append(receiver.recv())
        child.join()
    for mine, other in zip(*drawn, strict=True):
        assert mine != other


def test_opendp_accounts_for_its_sampler_as_we_do() -> None:
    import opendp.prelude as opendp

    from fedpipe.privacy.accounting import renyi_divergence
    from fedpipe.privacy.events import DiscreteGaussianDpEvent
    from fedpipe.privacy.randomness import _opendp_sampler

    assert opendp.__name__ == "opendp.prelude"
    sampler = _opendp_sampler(2.5)
    zero_concentrated = sampler.map(1.0)  # type: ignore[attr-defined]
    assert renyi_divergence(DiscreteGaussianDpEvent(2.5), 7) == pytest.approx(7 * zero_concentrated)

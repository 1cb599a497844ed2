"""Recomputes the epsilon of a certificate from its events. Knows dp-accounting, and nothing of fedpipe.

    python -I independent_epsilon.py certificate.json

Prints the largest epsilon over the certificate's blocks, at its delta, for adding or removing one record.
"""

import json
import sys

from dp_accounting.pld import privacy_loss_distribution as pld

INTERVAL = 1e-4


def loss_distribution(event):
    kind = event["type"]
    if kind == "Gaussian":
        return pld.from_gaussian_mechanism(event["noise_multiplier"], value_discretization_interval=INTERVAL)
    if kind == "DiscreteGaussian":
        return pld.from_discrete_gaussian_mechanism(
            event["noise_stddev"],
            sensitivity=event["sensitivity"],
            value_discretization_interval=INTERVAL,
        )
    if kind == "PoissonSampled":
        return sampled(event["event"], event["sampling_probability"])
    if kind == "SelfComposed":
        return loss_distribution(event["event"]).self_compose(event["count"])
    if kind == "Composed":
        return composed(event["events"])
    raise SystemExit(f"unknown event {kind!r}")


def sampled(event, probability):
    if event["type"] != "Gaussian":
        raise SystemExit(f"no rule for sampling {event['type']!r}")
    return pld.from_gaussian_mechanism(
        event["noise_multiplier"], sampling_prob=probability, value_discretization_interval=INTERVAL
    )


def composed(events):
    total = pld.identity(value_discretization_interval=INTERVAL)
    for event in events:
        total = total.compose(loss_distribution(event))
    return total


def main():
    with open(sys.argv[1], encoding="utf-8") as stream:
        certificate = json.load(stream)
    if certificate["privacy"]["neighboring_relation"] != "add_or_remove_one":
        raise SystemExit("another neighbouring relation")
    delta = certificate["privacy"]["delta"]
    blocks = [[query["event"] for query in block["queries"]] for block in certificate["blocks"]]
    print(max(composed(events).get_epsilon_for_delta(delta) for events in blocks))


if __name__ == "__main__":
    main()

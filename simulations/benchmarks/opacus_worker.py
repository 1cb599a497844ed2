"""Runs Opacus in an environment of its own: one problem and mode, a line of seconds for each line it reads.

Started as `python opacus_worker.py PROBLEM MODE`; it knows nothing of fedpipe but `problems.py`
beside it. What only its own environment has is imported where it is used.
"""

# mypy: ignore-errors
from __future__ import annotations

import sys
import time
import warnings


def network(problem):
    """Returns the model of a problem, as `fedpipe.learning.architectures` has it."""
    from torch import nn

    if problem == "lr":
        return nn.Linear(2000, 1)
    if problem == "mlp":
        return nn.Sequential(nn.Linear(700, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1))
    convolutions = [nn.ZeroPad2d(3), nn.Conv2d(1, 16, 8, 2), nn.Tanh(), nn.MaxPool2d(2, 1)]
    # Keras pads 13 pixels for a stride of 2 to 7 outputs, and the last pooling at one side.
    more = [nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(16, 32, 4, 2), nn.Tanh()]
    pooling = [nn.ConstantPad2d((0, 1, 0, 1), -2.0), nn.MaxPool2d(2, 1), nn.Flatten()]
    head = [nn.Linear(32 * 7 * 7, 32), nn.Tanh(), nn.Linear(32, 10)]
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), *convolutions, *more, *pooling, *head)


def loss(problem):
    """Returns the cross-entropy of logits and class numbers."""
    from torch import nn

    class BinaryCrossEntropy(nn.BCEWithLogitsLoss):
        def forward(self, logits, labels):
            return super().forward(logits[:, 0], labels.float())

    return nn.CrossEntropyLoss() if problem == "cnn" else BinaryCrossEntropy()


def make_epoch(problem, mode):
    """Returns a function that makes all steps."""
    import problems
    import torch
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_num_threads(1)
    features, labels = problems.records(problem)
    x, y = torch.tensor(features), torch.tensor(labels).long()
    model, criterion = network(problem), loss(problem)
    made = PrivacyEngine(accountant="rdp").make_private(
        module=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=problems.LEARNING_RATE),
        data_loader=DataLoader(TensorDataset(x, y), batch_size=problems.BATCH),
        noise_multiplier=problems.NOISE_MULTIPLIER,
        max_grad_norm=problems.CLIPPING_NORM,
        poisson_sampling=False,
        **({"grad_sample_mode": "ghost", "criterion": criterion} if mode == "ghost" else {}),
    )
    model, optimizer = made[:2]
    criterion = made[2] if mode == "ghost" else criterion
    batches = list(zip(x.split(problems.BATCH), y.split(problems.BATCH), strict=True))
    model.train()

    def epoch():
        for inputs, targets in batches:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()

    return epoch


def main():
    """Prints the first call's seconds, then one figure for each line read."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    epoch = make_epoch(*sys.argv[1:])
    epoch()
    print(time.perf_counter() - start, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        epoch()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()

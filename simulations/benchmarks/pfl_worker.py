"""Runs pfl's federated averaging with central noise: a line of seconds for each line it reads.

Its clients make plain SGD steps: records have no privacy.
"""

# mypy: ignore-errors
from __future__ import annotations

import os
import sys
import time
import warnings

ROUNDS = 10_000  # more than anybody asks for; the process is ended before


def make_model():
    """Returns pfl's view of the MLP."""
    import torch
    from pfl.metrics import Weighted
    from pfl.model.pytorch import PyTorchModel
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(700, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 1)
            )
            self.criterion = nn.BCEWithLogitsLoss()

        def loss(self, inputs, targets, **_):
            self.train()
            return self.criterion(self.layers(inputs)[:, 0], targets)

        @torch.no_grad()
        def metrics(self, inputs, targets, **_):
            return {"loss": Weighted(self.loss(inputs, targets).item() * len(inputs), len(inputs))}

    net = Net()
    return PyTorchModel(
        net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), 1.0),
    )


def main():
    """Prints the first round's seconds, then one figure for each line read."""
    warnings.simplefilter("ignore")
    import problems
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.dataset import Dataset
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.privacy.gaussian_mechanism import GaussianMechanism
    from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism

    # pfl prints too: only we speak on what the benchmark reads.
    answers = os.dup(1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    data = [
        Dataset([torch.tensor(x), torch.tensor(y).float()], user_id=str(number))
        for number, (x, y) in enumerate(problems.clients())
    ]
    sampler = get_user_sampler("minimize_reuse", list(range(len(data))))
    federated = FederatedDataset(lambda number: data[number], sampler)
    central = GaussianMechanism(clipping_bound=1.0, relative_noise_stddev=0.01)
    noise = CentrallyAppliedPrivacyMechanism(central)
    backend = SimulatedBackend(training_data=federated, val_data=federated, postprocessors=[noise])

    class Tell(TrainingProcessCallback):
        """Tells each round's seconds, and waits to be asked for the next."""

        start = time.perf_counter()

        def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
            os.write(answers, f"{time.perf_counter() - self.start}\n".encode())
            if not sys.stdin.readline():
                return True, Metrics()
            self.start = time.perf_counter()
            return False, Metrics()

    FederatedAveraging().run(
        # Evaluation happens once in that many rounds.
        algorithm_params=NNAlgorithmParams(ROUNDS, ROUNDS, problems.CLIENTS, problems.CLIENTS),
        backend=backend,
        model=make_model(),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1,
            local_learning_rate=problems.LEARNING_RATE,
            local_batch_size=problems.CLIENT_BATCH,
            local_max_grad_norm=1.0,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=problems.CLIENT_BATCH),
        callbacks=[Tell()],
    )


if __name__ == "__main__":
    main()

"""tf-encrypted, set up the same way in every process of a committee."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from typing import Any, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
warnings.filterwarnings("ignore")

import tensorflow as tf  # noqa: E402  # it reads the environment when it is imported

tf.config.threading.set_intra_op_parallelism_threads(1)
# Operations that wait for shares hold a thread each.
tf.config.threading.set_inter_op_parallelism_threads(4)

import tf_encrypted as tfe  # noqa: E402  # it starts TensorFlow
from tf_encrypted.operations.secure_random import supports_secure_randomness  # noqa: E402

__all__ = [
    "INPUT",
    "OUTPUT",
    "WEIGHTS",
    "configure",
    "connect",
    "num_staged",
    "stage",
    "tf",
    "tfe",
    "unstage",
]

INPUT, OUTPUT, WEIGHTS = "input", "output", "weights"


def configure(hosts: Sequence[str]) -> Any:
    """Returns tf-encrypted's configuration of three parties at `hosts`.

    Raises:
      RuntimeError: the secure random operation is missing: tf-encrypted would go on with predictable masks.
    """
    if not supports_secure_randomness():
        raise RuntimeError("Expected tf-encrypted's secure random operation, found it missing.")
    return tfe.RemoteConfig(OrderedDict((f"server{index}", host) for index, host in enumerate(hosts)))


def connect(hosts: Sequence[str], own: str) -> None:
    """Makes this process, at the address `own`, the one whose graphs the parties run."""
    # tf-encrypted's own way takes any port, which parties on other hosts could not call back.
    cluster = tf.train.ClusterSpec({"tfe": list(hosts), "coordinator": [own]})
    tf.config.experimental_connect_to_cluster(cluster, job_name="coordinator", task_index=0, protocol="grpc")


def stage(slot: str, key: int, pair: Sequence[Any]) -> None:
    """Puts two arrays into a slot of the current device, where the joint graph finds them."""
    values = [tf.constant(share) for share in pair]
    tf.raw_ops.MapStage(
        key=tf.constant(key, tf.int64), indices=[0, 1], values=values, dtypes=[tf.int64] * 2, shared_name=slot
    )


def num_staged(slot: str) -> int:
    """Returns how many pairs are in a slot of the current device, after all earlier orders to it."""
    return int(tf.raw_ops.MapSize(dtypes=[tf.int64] * 2, shared_name=slot))


def unstage(slot: str, key: Any) -> Any:
    """Takes two tensors out of a slot of the current device; waits for them."""
    return tf.raw_ops.MapUnstage(key=key, indices=[0, 1], dtypes=[tf.int64] * 2, shared_name=slot)

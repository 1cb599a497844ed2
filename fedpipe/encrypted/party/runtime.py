"""tf-encrypted, set up the same way in every process of a committee."""

from __future__ import annotations

import os
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Dict, Sequence

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
    "Staging",
    "configure",
    "connect",
    "stage",
    "tf",
    "tfe",
    "unstage",
]

if TYPE_CHECKING:
    from .pairs import Pair

INPUT, OUTPUT, WEIGHTS = "input", "output", "weights"
_JOB = "tfe"  # as tf-encrypted names its servers


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
    cluster = tf.train.ClusterSpec({_JOB: list(hosts), "coordinator": [own]})
    tf.config.experimental_connect_to_cluster(cluster, job_name="coordinator", task_index=0, protocol="grpc")


class Staging:
    """Puts a party's pairs where the joint graph finds them, and takes what that leaves.

    Through a session, since of each eager operation on a server a kilobyte or more stays there for ever.
    """

    def __init__(self, target: str, index: int) -> None:
        self._graph = tf.Graph()
        # Without the filter the session would wait for the servers of the other parties.
        config = tf.compat.v1.ConfigProto(device_filters=[f"/job:{_JOB}/task:{index}"])
        self._session = tf.compat.v1.Session(target, graph=self._graph, config=config)
        with self._graph.as_default():
            self._key = tf.compat.v1.placeholder(tf.int64, [])
            self._pair = [tf.compat.v1.placeholder(tf.int64) for _ in range(2)]
        self._puts: Dict[str, Any] = {}
        self._takes: Dict[str, Any] = {}

    def put(self, slot: str, key: int, pair: Pair) -> None:
        """Puts two arrays into a slot; returns when they are there."""
        if slot not in self._puts:
            with self._graph.as_default():
                self._puts[slot] = stage(slot, self._key, self._pair)
        feed = {self._key: key, self._pair[0]: pair[0], self._pair[1]: pair[1]}
        self._session.run(self._puts[slot], feed)

    def take(self, slot: str, key: int) -> Pair:
        """Takes two arrays out of a slot. They must be there: to wait would hold a thread of the server's."""
        if slot not in self._takes:
            with self._graph.as_default():
                self._takes[slot] = unstage(slot, self._key)
        first, second = self._session.run(self._takes[slot], {self._key: key})
        return first, second


def stage(slot: str, key: Any, pair: Sequence[Any]) -> Any:
    """Returns the operation that puts two tensors into a slot of the current device."""
    return tf.raw_ops.MapStage(
        key=key, indices=[0, 1], values=list(pair), dtypes=[tf.int64] * 2, shared_name=slot
    )


def unstage(slot: str, key: Any) -> Any:
    """Takes two tensors out of a slot of the current device; waits for them."""
    return tf.raw_ops.MapUnstage(key=key, indices=[0, 1], dtypes=[tf.int64] * 2, shared_name=slot)

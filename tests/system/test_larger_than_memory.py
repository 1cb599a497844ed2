"""A shard larger than what its client may keep in memory is counted, committed to and drawn from alike."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROWS = 150_000
WIDE = 1500  # characters of one column
MIB = 1 << 20

# What a node does with its records, step by step, and the memory of its own that it takes at most.
CHILD = """
import json, sys, threading, time
from pathlib import Path
import numpy as np
from fedpipe.learning.handover import Records
from fedpipe.learning.local_task import LocalTask
from fedpipe.data import PreprocessSettings, Schema, Transform, commitment, open_shard
from fedpipe.data.inputs import encode_compactly
from fedpipe.data.profile import feature_counts, fit_transform
from fedpipe.data.statistics import column_health, label_counts
from fedpipe.data.users import bound_contributions
from fedpipe.learning.chunk_sizes import ROWS
from fedpipe.scratch import Scratch

def taken():
    [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in each]
    return int(line.split()[1]) << 10

def watch():
    while True:
        seen.append(taken())
        time.sleep(0.005)

source, memory = Path(sys.argv[1]), int(sys.argv[2])
schema = Schema.model_validate_json(sys.argv[3])
scratch = Scratch(directory=source.parent, memory_bytes=memory)
seen, begin = [], taken()
threading.Thread(target=watch, daemon=True).start()
shard = open_shard(source, schema, eval_fraction=0.3, split_key=b"k" * 32, scratch=scratch)
bounded = bound_contributions(shard, schema, max_records=2, key=b"k" * 32)
settings = PreprocessSettings(num_bins=4, min_count=1)
counts = feature_counts(shard.train.table, schema, settings)
transform = fit_transform(counts, schema, settings, noise_stddev=0, num_records=len(shard.labels))
train = shard.labelled_train
inputs = encode_compactly(transform, train.table, scratch)
task = LocalTask(
    weights=np.zeros(1, np.float32), features=inputs, labels=train.labels.astype(np.int32),
    batches=[np.arange(0, len(train.labels), 100, dtype=np.int32)], noise=np.zeros((1, 1), np.float32),
    clipping_norm=1.0, local_step_size=0.0,
)
drawn = Records().of(task)[0]
print(json.dumps({
    "bytes": max(seen) - begin,
    "commitment": commitment(shard, b"k" * 32),
    "labels": label_counts(shard, schema).tolist(),
    "health": [each.tolist() for each in column_health(shard, schema)],
    "counts": [each.tolist() for each in counts],
    "bounded": len(bounded.labels),
    "drawn": np.asarray(drawn).sum(axis=0).tolist(),
    "left": sorted(each.name for each in source.parent.iterdir()),
}))
"""
# Dividing one table among simulated clients, likewise.
DIVIDE = """
import json, sys, threading, time
from functools import partial
from pathlib import Path
from fedpipe.config import load_config
from simulations import division, population

def taken():
    [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in each]
    return int(line.split()[1]) << 10

def watch():
    while True:
        seen.append(taken())
        time.sleep(0.005)

source, memory = Path(sys.argv[1]), int(sys.argv[2])
base = load_config("breast_cancer")
schema = type(base.data_schema).model_validate_json(sys.argv[3])
settings = base.federation.model_copy(update={"partition": "iid", "num_clients": 50})
config = base.model_copy(update={"data_schema": schema, "federation": settings})
population.Scratch = partial(population.Scratch, memory_bytes=memory)
division.BYTES_AT_ONCE = memory
seen, begin = [], taken()
threading.Thread(target=watch, daemon=True).start()
made = population.make_population(config, [source], directory=source.parent / str(memory), seed=0)
print(json.dumps({
    "bytes": max(seen) - begin,
    "files": [client.source.name for client in made.clients],
}))
"""
SCHEMA = {
    "label": {"name": "disputed", "classes": {"no": [], "yes": []}},
    "key": "record_id",
    "user": "person",
    "columns": {
        "age": {"type": "numeric", "minimum": 0, "maximum": 100},
        "state": {"type": "categorical", "vocabulary": ["ca", "tx"]},
        "company": {"type": "categorical", "hash_buckets": 64},
    },
}


def write(path: Path) -> None:
    generator = random.Random(3)
    words = [f"{generator.getrandbits(4 * WIDE):x}" for _ in range(40)]
    header, mode = True, "w"
    for start in range(0, ROWS, 10_000):
        numbers = range(start, start + 10_000)
        frame = pd.DataFrame(
            {
                "record_id": numbers,
                "person": [n % (ROWS // 3) for n in numbers],
                "age": [n % 97 for n in numbers],
                "state": [("CA", "TX", "")[n % 3] for n in numbers],
                "company": [f"{n % 1000}{words[n % 40]}" for n in numbers],
                "disputed": [("yes", "no", "?")[n % 5 % 3] for n in numbers],
            }
        )
        frame.to_csv(path, index=False, header=header, mode=mode)
        header, mode = False, "a"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "records.csv"
    write(path)
    return path


def run(source: Path, memory: int, child: str = CHILD) -> dict[str, object]:
    command = [sys.executable, "-c", child, str(source), str(memory), json.dumps(SCHEMA)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_a_shard_larger_than_memory_is_the_same_shard(source: Path) -> None:
    size = source.stat().st_size
    in_memory, streamed = run(source, 1 << 40), run(source, 16 * MIB)
    taken = {"in memory": in_memory.pop("bytes"), "streamed": streamed.pop("bytes")}
    print(f"A file of {size / MIB:.0f} MiB took {taken}.")
    assert streamed == in_memory
    assert isinstance(taken["streamed"], int)
    assert taken["streamed"] < size < taken["in memory"] / 3
    assert streamed["left"] == [source.name]


def test_a_table_larger_than_memory_is_divided_alike(source: Path) -> None:
    size = source.stat().st_size
    memory = {"in memory": 1 << 40, "streamed": 16 * MIB}
    found = {how: run(source, limit, DIVIDE) for how, limit in memory.items()}
    taken = {how: each.pop("bytes") for how, each in found.items()}
    print(f"To divide a file of {size / MIB:.0f} MiB took {taken}.")
    assert found["streamed"] == found["in memory"]
    names = found["streamed"]["files"]
    assert isinstance(names, list)
    assert len(names) == 50
    for name in names:
        one, other = (pd.read_parquet(source.parent / str(limit) / name) for limit in memory.values())
        pd.testing.assert_frame_equal(one, other)
    assert isinstance(taken["streamed"], int)
    assert taken["streamed"] < size < taken["in memory"] / 2

"""The jobs that chaos disturbs, and what each of them ends with when nothing does."""
import dataclasses
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
import cluster  # noqa: E402  (tests/integration)

HERE = pathlib.Path(__file__).resolve().parent
# What result.json says of the training; the rest is of time and place.
FIGURES = ("model_digest", "version", "samples", "train_logloss", "valid", "test", "best_epoch",
           "valid_auc", "test_auc", "deterministic")

STORE = {"cluster__buckets": 64, "tables__limited__max_rows": 128,
         "tables__frequent__eviction__unseen_versions": 8, "tables__frequent__eviction__sweep_versions": 4,
         "data__shuffle_rows": 700}


@dataclasses.dataclass(frozen=True)
class Job:
    """What is trained: everything that the digest depends on."""
    name: str
    file: pathlib.Path
    sets: dict

    def overrides(self, workspace, **more):
        return workspace.overrides(**{"train__batch_size": 256, **self.sets, **more})


EXAMPLES = cluster.ROOT / "examples"
JOBS = [
    # Adam, one epoch, figures at its end.
    Job("deepfm", EXAMPLES / "criteo_deepfm.textproto", {}),
    # Evaluations between steps, early stopping, a best model that is saved and replaced.
    Job("evaluated", EXAMPLES / "criteo_deepfm.textproto",
        {"train__evaluate_every_steps": 9, "train__early_stop_patience": 40, "data__shuffle_rows": 700,
         "train__epochs": 2, "train__clip_dense_norm": 0.5}),
    # Tables of every kind and precision: filters, eviction, shared rows, learned scales.
    Job("store", EXAMPLES / "criteo_store.textproto", STORE),
    # The same, with validations, over two epochs.
    Job("store2", EXAMPLES / "criteo_store.textproto",
        {**STORE, "train__epochs": 2, "train__evaluate_every_steps": 16, "train__early_stop_patience": 40}),
    # Nothing is saved before the end: a disk that is full for a while is the logs' matter alone.
    Job("long", EXAMPLES / "criteo_deepfm.textproto", {"train__epochs": 2, "data__valid": ""}),
    # Integers that depend on the values that were pulled.
    Job("counter", HERE / "counter.textproto", {}),
]


def figures(run):
    result = cluster.result(run)
    found = {name: result[name] for name in FIGURES}
    found["rows"] = {name: table["rows"] for name, table in result["tables"].items()}
    return found


class Undisturbed:
    """Figures of each job when nothing happens to it, each found out once."""

    def __init__(self, workspace):
        self._workspace = workspace
        self._known = {}

    def of(self, job):
        """(figures, seconds)."""
        if job.name not in self._known:
            run = self._workspace.new_run()
            code, output = cluster.run(
                cluster.train_command(run, job.overrides(self._workspace), job=job.file, servers=2, workers=2), 180)
            assert code == 0, f"the undisturbed {job.name} ended with {code}: {output}"
            self._known[job.name] = (figures(run), cluster.result(run)["seconds"])
        return self._known[job.name]


def describe(sets):
    return " ".join(f"{name.split('__')[-1]}={value}" for name, value in sets.items())


def dump(value):
    return json.dumps(value, sort_keys=True)

"""Samples of categorical fields with a known truth, in which rare values matter: what tables are compressed on.

Each field's values follow Zipf's law.  A value has an effect of its own, normal, and a latent vector that interacts with the other
fields'; both are shrunk by count / (count + HALF_COUNT), so that what no method could learn from the data is not in the truth.
logit = intercept + first order + second order; label ~ Bernoulli(sigmoid(logit)).  Only the standard library; the same arguments give
the same files.
"""

import bisect
import itertools
import json
import math
import pathlib
import random

CARDINALITIES = [300_000, 150_000, 80_000, 40_000, 20_000, 8_000, 2_000, 500]
HALF_COUNT = 20
RANK = 2
FIRST_DEVIATION = 1.2  # Of the logit's parts.
SECOND_DEVIATION = 0.6
INTERCEPT = -0.8
CHUNK = 50_000


class Field:
    def __init__(self, index, cardinality, zipf, rows, seed):
        rng = random.Random(f"field {index} {cardinality} {rows} {seed}")
        weights = [k**-zipf for k in range(1, cardinality + 1)]
        self.cumulative = list(itertools.accumulate(weights))
        self.values = range(cardinality)
        scale = rows / self.cumulative[-1]
        shrink = [w * scale / (w * scale + HALF_COUNT) for w in weights]
        self.first = [s * rng.gauss(0, 1) for s in shrink]
        self.latent = [[s * rng.gauss(0, 1) for s in shrink] for _ in range(RANK)]

    def draw(self, rng, count):
        return rng.choices(self.values, cum_weights=self.cumulative, k=count)


class Truth:
    def __init__(self, zipf, rows, seed, shrink):
        self.fields = [Field(i, max(2, c // shrink), zipf, rows, seed) for i, c in enumerate(CARDINALITIES)]
        self.scales = (1.0, 1.0)
        self.names = [f"v{i}" for i in range(len(self.fields))]
        # Both parts have the deviations that they should have, on a sample of their own.
        parts = [self.parts(columns) for columns in zip(*self.draw(random.Random(f"calibrate {seed}"), CHUNK))]
        self.means = [sum(p[k] for p in parts) / len(parts) for k in (0, 1)]
        variances = [sum((p[k] - self.means[k]) ** 2 for p in parts) / len(parts) for k in (0, 1)]
        self.scales = (FIRST_DEVIATION / math.sqrt(variances[0]), SECOND_DEVIATION / math.sqrt(variances[1]))

    def draw(self, rng, count):
        return [field.draw(rng, count) for field in self.fields]

    def parts(self, values):
        first = sum(field.first[v] for field, v in zip(self.fields, values))
        second = 0.0
        for r in range(RANK):
            latent = [field.latent[r][v] for field, v in zip(self.fields, values)]
            total = sum(latent)
            second += 0.5 * (total * total - sum(x * x for x in latent))
        return first, second

    def probability(self, values):
        first, second = self.parts(values)
        logit = INTERCEPT + self.scales[0] * (first - self.means[0]) + self.scales[1] * (second - self.means[1])
        return 1 / (1 + math.exp(-logit))

    def write(self, path, rows, rng, probabilities=None, seen=None):
        with open(path, "w", encoding="ascii") as file:
            file.write(",".join(["label", *self.names]) + "\n")
            for start in range(0, rows, CHUNK):
                columns = self.draw(rng, min(CHUNK, rows - start))
                lines = []
                for values in zip(*columns):
                    p = self.probability(values)
                    label = rng.random() < p
                    if probabilities is not None:
                        probabilities.append((p, label))
                    lines.append(f"{int(label)},{','.join(map(str, values))}")
                file.write("\n".join(lines) + "\n")
                for distinct, column in zip(seen or [], columns):
                    distinct.update(column)


def auc(scored):
    """Of (score, label) pairs; ties count half."""
    scored = sorted(scored)
    scores = [s for s, _ in scored]
    negatives_below = list(itertools.accumulate((not label for _, label in scored), initial=0))
    positives, ordered = 0, 0.0
    for score, label in scored:
        if label:
            low = negatives_below[bisect.bisect_left(scores, score)]
            high = negatives_below[bisect.bisect_right(scores, score)]
            positives += 1
            ordered += (low + high) / 2
    return ordered / (positives * negatives_below[-1])


def make(folder, rows, test_rows, zipf, seed, shrink=1):
    """Writes train.csv and test.csv once; what is known of them: fields, distinct_values of train.csv, best_auc on test.csv.

    A value's probability is proportional to rank^-zipf; fields have 1 / shrink of CARDINALITIES.
    """
    folder = pathlib.Path(folder)
    about = folder / "planted.json"
    wanted = {"rows": rows, "test_rows": test_rows, "seed": seed, "zipf": zipf, "shrink": shrink, "half_count": HALF_COUNT}
    if about.exists():
        known = json.loads(about.read_text(encoding="utf-8"))
        if known["arguments"] == wanted:
            return known
    folder.mkdir(parents=True, exist_ok=True)
    about.unlink(missing_ok=True)
    truth = Truth(zipf, rows, seed, shrink)
    seen = [set() for _ in truth.fields]
    truth.write(folder / "train.csv", rows, random.Random(f"train {seed}"), seen=seen)
    scored = []
    truth.write(folder / "test.csv", test_rows, random.Random(f"test {seed}"), probabilities=scored)
    known = {"arguments": wanted, "fields": truth.names, "distinct_values": sum(map(len, seen)), "best_auc": auc(scored)}
    about.write_text(json.dumps(known) + "\n", encoding="utf-8")
    return known

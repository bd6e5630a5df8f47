"""Records what scikit-learn, SciPy and torchmetrics make of small random data, for tests/clusters.rs.

    pip install scikit-learn torchmetrics safetensors
    python benches/peers/scikit-learn/record.py kernels-tests/fixtures/clusters
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import sklearn
import torch
import torchmetrics
from safetensors.numpy import save_file
from scipy.optimize import linear_sum_assignment
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP, RetrievalPrecision, RetrievalRecall

rng = np.random.default_rng(0)
out = Path(sys.argv[1])
tensors = {}


def agreement(name, classes, clusters):
    table = metrics.cluster.contingency_matrix(classes, clusters)
    rows, cols = linear_sum_assignment(table, maximize=True)
    return {
        "name": name,
        "classes": [int(c) for c in classes],
        "clusters": [int(c) for c in clusters],
        "accuracy": float(table[rows, cols].sum() / len(classes)),
        "ari": float(metrics.adjusted_rand_score(classes, clusters)),
        "nmi": float(metrics.normalized_mutual_info_score(classes, clusters)),
        "fmi": float(metrics.fowlkes_mallows_score(classes, clusters)),
    }


def partly(classes, k, wrong):
    """Classes as clusters, with so large a share put anywhere."""
    anywhere = rng.integers(0, k, len(classes))
    return np.where(rng.random(len(classes)) < wrong, anywhere, classes % k)


ten = rng.integers(0, 10, 300)
gaps = ten * 3 + 1
agreements = [
    agreement("permuted", ten, rng.permutation(10)[ten]),
    agreement("some wrong", ten, partly(ten, 10, 0.4)),
    agreement("random", ten, rng.integers(0, 10, 300)),
    agreement("random in many", ten, rng.integers(0, 100, 300)),
    agreement("more clusters", ten, partly(ten, 17, 0.3) + 5 * rng.integers(0, 3, 300)),
    agreement("fewer clusters", ten, partly(ten, 4, 0.3)),
    agreement("unused numbers", gaps, partly(ten, 10, 0.3) * 7),
    agreement("one cluster", ten, np.zeros(300, int)),
    agreement("one class", np.zeros(300, int), ten),
    agreement("one of each", np.zeros(20, int), np.full(20, 3)),
    agreement("each its own", ten[:50], np.arange(50)),
]


def k_means(name, points, first, **options):
    points, first = points.astype(np.float32), first.astype(np.float32)
    found = {}
    for kind in (np.float64, np.float32):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = KMeans(len(first), init=first.astype(kind), n_init=1, algorithm="lloyd", **options)
            found[kind] = model.fit(points.astype(kind))
    exact, single = found[np.float64], found[np.float32]
    # data on which rounding decides would prove nothing
    assert (exact.labels_ == single.labels_).all() and exact.n_iter_ == single.n_iter_, name
    print(name, "inertia", exact.inertia_, "single", single.inertia_, "iterations", exact.n_iter_)
    tensors[f"{name}.points"], tensors[f"{name}.first"] = points, first
    tensors[f"{name}.centres"] = exact.cluster_centers_.astype(np.float32)
    return {
        "name": name,
        "max_iter": exact.max_iter,
        "clusters": exact.labels_.tolist(),
        "inertia": float(exact.inertia_),
        "iterations": int(exact.n_iter_),
    }


def blobs(n, width, k, spread):
    centres = rng.normal(size=(k, width))
    return 3 + centres[rng.integers(0, k, n)] + spread * rng.normal(size=(n, width))


near = blobs(500, 12, 8, 0.9)
far = near[:6].copy()
far[3:] += 1000
# five different rows alone
few = np.repeat(rng.normal(size=(5, 3)), [4, 1, 3, 2, 6], axis=0)
k_meanses = [
    k_means("overlapping", near, near[:8]),
    k_means("stopped early", near, near[:8], max_iter=3),
    k_means("empty clusters", near, far),
    k_means("equal rows", few, few[:8]),
    k_means("one cluster", near[:60], near[:1]),
]


def retrieval(name, gallery, classes, queries, asked, ks=(1, 5, 10)):
    unit = [torch.nn.functional.normalize(torch.from_numpy(x).double(), dim=1) for x in (queries, gallery)]
    # torchmetrics gives nothing for a relevant image whose similarity is not above 0
    similarity = (1 + unit[0] @ unit[1].T) / 2
    keep = torch.ones_like(similarity, dtype=torch.bool)
    if queries is gallery:
        keep.fill_diagonal_(False)
    relevant = torch.from_numpy(asked)[:, None] == torch.from_numpy(classes)[None]
    index = torch.arange(len(asked))[:, None].expand_as(similarity)
    given = similarity[keep], relevant[keep], index[keep]

    def score(metric, **options):
        return float(metric(empty_target_action="skip", **options)(given[0], given[1], indexes=given[2]))

    tensors[f"{name}.gallery"] = gallery
    if queries is not gallery:
        tensors[f"{name}.queries"] = queries
    return {
        "name": name,
        "within": queries is gallery,
        "classes": classes.tolist(),
        "asked": asked.tolist(),
        "ks": list(ks),
        "map": score(RetrievalMAP),
        "precision_at_1": score(RetrievalPrecision, top_k=1),
        "recall": [score(RetrievalRecall, top_k=k) for k in ks],
        "hits": [score(RetrievalHitRate, top_k=k) for k in ks],
        "without": int(((relevant & keep).sum(1) == 0).sum()),
    }


def labelled(n, centres, spread):
    classes = rng.integers(0, len(centres), n)
    features = centres[classes] + spread * rng.normal(size=(n, centres.shape[1]))
    return features.astype(np.float32), classes


centres = rng.normal(size=(9, 10))
gallery, classes = labelled(250, centres[:7], 1.0)
queries, asked = labelled(70, centres, 1.0)
alone = classes.copy()
alone[17] = 8  # no other of its class
retrievals = [
    retrieval("across", gallery, classes, queries, asked),
    retrieval("within", gallery, alone, gallery, alone),
]

out.mkdir(parents=True, exist_ok=True)
save_file(tensors, out / "features.safetensors")
versions = {"scikit-learn": sklearn.__version__, "torchmetrics": torchmetrics.__version__, "numpy": np.__version__}
record = {"versions": versions, "agreement": agreements, "k_means": k_meanses, "retrieval": retrievals}
(out / "expected.json").write_text(json.dumps(record) + "\n")

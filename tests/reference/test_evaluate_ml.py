"""The operators of ai.onnx.ml that the interpreter knows, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from forms import base, compare
from onnx import helper

from prunedeploy.core.errors import UserError
from prunedeploy.reference.evaluate import Evaluator
from prunedeploy.reference.machine_learning import DOMAIN, VERSIONS

X = base.data("float32", (3, 4), "ml")
WHOLE = np.array([[1, 5, 2], [2, 2, 9]], np.int64)
HOLES = np.array([[1, np.nan, 3], [np.nan, 5, 6]], np.float32)
TREE = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 0, 1, 2],
    "nodes_featureids": [1, 0, 0, 2, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * 2,
    "nodes_values": [0.1, 0.0, 0.0, -0.2, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0, 1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0, 2, 0, 0],
    "nodes_missing_value_tracks_true": [0] * 6,
    "nodes_hitrates": [1.0] * 6,
}
LEAVES = {"treeids": [0, 0, 1, 1], "nodeids": [1, 2, 1, 2], "ids": [0] * 4}
TARGETS = {f"target_{k}": v for k, v in LEAVES.items()} | {"target_weights": [1.0, -2.0, 0.5, 3.0]}
Case = tuple[str, int, dict[str, Any], tuple[Any, ...], int]
CASES: list[Case] = [
    ("ArrayFeatureExtractor", 1, {}, (X, np.array([0, 2])), 1),
    ("Binarizer", 1, {}, (X,), 1),
    ("Binarizer", 1, {"threshold": 0.3}, (X,), 1),
    ("FeatureVectorizer", 1, {"inputdimensions": [4, 4]}, (X, X + 1), 1),
    ("Imputer", 1, {"imputed_value_floats": [0.5], "replaced_value_float": np.nan}, (HOLES,), 1),
    ("LabelEncoder", 2, {"keys_int64s": [1, 2, 5], "values_floats": [0.5, 1.5, 2.5]}, (WHOLE,), 1),
    ("LabelEncoder", 4, {"keys_int64s": [1, 2, 5], "values_int64s": [7, 8, 9]}, (WHOLE,), 1),
    ("LinearRegressor", 1, {"coefficients": [0.5, 1, -1, 2], "intercepts": [0.3]}, (X,), 1),
    (
        "LinearRegressor",
        1,
        {"coefficients": [0.5 * i for i in range(8)], "intercepts": [0.3, 1.0], "targets": 2},
        (X,),
        1,
    ),
    ("OneHotEncoder", 1, {"cats_int64s": [1, 2, 5]}, (np.array([5, 1, 7]),), 1),
    ("Scaler", 1, {"offset": [0.1, 0.2, 0.3, 0.4], "scale": [1.0, 2.0, 0.5, 3.0]}, (X,), 1),
    ("Scaler", 1, {"offset": [0.1], "scale": [2.0]}, (X,), 1),
    *(
        ("TreeEnsembleRegressor", version, {**TREE, **TARGETS, "n_targets": 1, **more}, (X,), 1)
        for version in (1, 3)
        for more in ({}, {"base_values": [0.7]})
    ),
]


def proto(case: Case) -> Any:
    operator, version, attributes, inputs, outputs = case
    names = [f"x{i}" for i in range(len(inputs))]
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(operator, names, results, domain=DOMAIN, **attributes)
    infos = [helper.make_value_info(n, base.type_of(x)) for n, x in zip(names, inputs, strict=True)]
    shown = [base.onnx.ValueInfoProto(name=name) for name in results]
    graph = helper.make_graph([node], operator, infos, shown)
    imports = [helper.make_opsetid(DOMAIN, version), helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_form_is_that_of_onnxruntime(case: Case) -> None:
    model = proto(case)
    feeds = {f"x{i}": x for i, x in enumerate(case[3])}
    expected = compare.session(model).run(None, feeds)
    found = Evaluator(ir.from_proto(model)).run(feeds).values()
    assert [compare.difference(a, b) for a, b in zip(expected, found, strict=True)] == [None]


def test_every_version_that_is_known_is_compared() -> None:
    compared = {(operator, version) for operator, version, *_ in CASES}
    assert {(name, v) for name, versions in VERSIONS.items() for v in versions} == compared


@pytest.mark.parametrize(
    ("operator", "version"), [("Normalizer", 1), ("ZipMap", 1), ("Scaler", 99)]
)
def test_others_are_refused_by_name(operator: str, version: int) -> None:
    case: Case = (operator, version, {}, (X,), 1)
    with pytest.raises(UserError, match=f"{DOMAIN}::{operator} .*unknown"):
        Evaluator(ir.from_proto(proto(case)))

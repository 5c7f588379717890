"""Forms of sequences, optional values, text, graphs inside nodes, and attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from forms.base import (
    Form,
    Schema,
    allowed,
    choices,
    data,
    forms_of,
    label,
    positive,
    product,
)

FLOAT = TensorProto.FLOAT


def _sequence(dtype: str = "float32", count: int = 3) -> list[np.ndarray]:
    return [data(dtype, (2, 3), "sequence", i) for i in range(count)]


def _of(shape: list[Any] | None = None, kind: int = FLOAT) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(kind, shape)


SEQUENCE = helper.make_sequence_type_proto(_of())


@forms_of("SequenceAt", "SequenceErase", "SequenceInsert", "SequenceLength")
def sequence(schema: Schema) -> Iterator[Form]:
    for dtype in ("float32", "int64", "bool"):
        values = _sequence(dtype)
        if schema.name == "SequenceLength":
            yield Form(dtype, {}, (values,))
            continue
        more: tuple[Any, ...] = (data(dtype, (2, 3), "new"),) if "Insert" in schema.name else ()
        for kind in ("int64", "int32"):
            for place in (0, 2, -1, -3):
                yield Form(f"{dtype} {kind} {place}", {}, (values, *more, np.array(place, kind)))
        if schema.name != "SequenceAt":
            yield Form(f"{dtype} end", {}, (values, *more))


@forms_of("SequenceConstruct")
def construct(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for count in (1, 3):
            yield Form(f"{dtype} {count}", {}, tuple(_sequence(dtype, count)))


@forms_of("SequenceEmpty")
def empty(schema: Schema) -> Iterator[Form]:
    for attributes in choices(schema, dtype=[TensorProto.INT64]):
        yield Form(label(attributes), attributes)


@forms_of("ConcatFromSequence")
def concat_from_sequence(schema: Schema) -> Iterator[Form]:
    for axis in (0, 1, -1):
        for attributes in choices(schema, new_axis=[0, 1]):
            chosen = {"axis": axis, **attributes}
            yield Form(label(chosen), chosen, (_sequence(),))


@forms_of("SplitToSequence")
def split_to_sequence(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        x = data(dtype, (4, 5), "split")
        for attributes in product(schema, axis=[None, 0, 1, -1], keepdims=[None, 0, 1]):
            yield Form(label(attributes, dtype), attributes, (x,))
            if "keepdims" in attributes:
                continue
            size = x.shape[attributes.get("axis", 0)]
            for split in (np.array(2), np.array([1, size - 1]), np.array(2, np.int32)):
                what = label(attributes, dtype, split.tolist(), split.dtype)
                yield Form(what, attributes, (x, split))


OPTIONAL = helper.make_optional_type_proto(_of([2, 3]))


@forms_of("Optional")
def optional(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        yield Form(f"element {dtype}", {}, (data(dtype, (2, 3), "optional"),))
    yield Form("sequence", {}, (_sequence(),))
    yield Form("empty", {"type": _of([2, 3])})


@forms_of("OptionalGetElement", "OptionalHasElement")
def optional_element(schema: Schema) -> Iterator[Form]:
    yield Form("element", {}, (data("float32", (2, 3), "optional"),), types=(OPTIONAL,))
    if schema.since_version >= 18:
        for dtype in allowed(schema):
            yield Form(f"tensor {dtype}", {}, (data(dtype, (2, 3), "optional"),))
        if schema.name == "OptionalHasElement":
            yield Form("nothing", {}, (None,))
        yield Form("sequence", {}, (_sequence(),))


def words(*items: str) -> np.ndarray:
    return np.array(items, object)


@forms_of("StringConcat")
def string_concat(schema: Schema) -> Iterator[Form]:
    yield Form("equal shapes", {}, (words("a", "b"), words("c", "ä")))
    yield Form("broadcast", {}, (words("a", "b")[:, None], words("c", "", "d")))


@forms_of("StringSplit")
def string_split(schema: Schema) -> Iterator[Form]:
    x = words("a b  c", "d", " e f ", "g,h,,i", "")
    for attributes in product(schema, delimiter=[None, "", ",", " "], maxsplit=[None, 1, 2]):
        yield Form(label(attributes), attributes, (x,), 2)


@forms_of("RegexFullMatch")
def regex(schema: Schema) -> Iterator[Form]:
    x = words("www.example.com", "abc1", "", "12-34")
    for pattern in (r"www\.[\w.-]+\.\bcom\b", r"[a-z]+\d", r"(\d+)-(\d+)", ""):
        yield Form(pattern or "empty", {"pattern": pattern}, (x,))


@forms_of("StringNormalizer")
def string_normalizer(schema: Schema) -> Iterator[Form]:
    x = words("Monday", "tuesday", "WEDNESDAY", "monday")
    for attributes in product(
        schema,
        case_change_action=[None, "NONE", "LOWER", "UPPER"],
        is_case_sensitive=[None, 0, 1],
        stopwords=[None, ["monday"]],
    ):
        yield Form(label(attributes), attributes, (x,))
    stops = {"stopwords": ["monday"], "is_case_sensitive": 1}
    yield Form("2-D", stops, (x[None],))
    yield Form("all gone", stops, (words("monday", "monday"),))
    yield Form("locale", {"locale": "en_US.UTF-8", "case_change_action": "UPPER"}, (x,))


@forms_of("TfIdfVectorizer")
def tf_idf(schema: Schema) -> Iterator[Form]:
    base = {
        "ngram_counts": [0, 4],
        "ngram_indexes": [0, 1, 2, 3, 4, 5, 6],
        "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7],
    }
    rows = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]])
    for mode in ("TF", "IDF", "TFIDF"):
        for least, most, skips in ((1, 1, 0), (2, 2, 0), (1, 2, 0), (2, 2, 5), (1, 2, 1)):
            for weights in (None, [0.5, 1, 2, 3, 4, 5, 6]):
                attributes: dict[str, Any] = {**base, "mode": mode, "max_skip_count": skips}
                attributes |= {"min_gram_length": least, "max_gram_length": most}
                attributes |= {} if weights is None else {"weights": weights}
                for kind in ("int32", "int64"):
                    for x in (rows, rows[1]):
                        what = f"{mode} {least} {most} {skips} {weights is None} {kind} {x.ndim}"
                        yield Form(what, attributes, (x.astype(kind),))
    strings = {k: v for k, v in base.items() if k != "pool_int64s"}
    strings["pool_strings"] = ["a", "b", "c", "d", "c", "e", "f", "g", "e", "f"]
    strings |= {"mode": "TF", "max_skip_count": 0, "min_gram_length": 1, "max_gram_length": 2}
    yield Form("strings", strings, (words("a", "c", "e", "e", "f"),))


def _info(name: str, kind: int = FLOAT, shape: list[Any] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


@forms_of("If")
def if_(schema: Schema) -> Iterator[Form]:
    for condition in (True, False):
        branches = {}
        for name, op in (("then_branch", "Abs"), ("else_branch", "Neg")):
            tensor = helper.make_tensor("c", FLOAT, [2], [1.5, -2.5])
            nodes = [
                helper.make_node("Constant", [], ["c"], value=tensor),
                helper.make_node(op, ["c"], ["out"]),
            ]
            branches[name] = helper.make_graph(nodes, name, [], [_info("out", FLOAT, [2])])
        yield Form(f"{condition}", branches, (np.array(condition),))


def _loop_body(scan: bool) -> onnx.GraphProto:
    """state + number of the step, while that is below three."""
    nodes = [
        helper.make_node("Cast", ["step"], ["number"], to=FLOAT),
        helper.make_node("Add", ["state", "number"], ["next"]),
        helper.make_node("Constant", [], ["three"], value=helper.make_tensor("t", FLOAT, [], [3])),
        helper.make_node("Less", ["number", "three"], ["go"]),
        helper.make_node("Abs", ["next"], ["each"]),
    ]
    inputs = [
        _info("step", TensorProto.INT64, []),
        _info("going", TensorProto.BOOL, []),
        _info("state", FLOAT, [2, 3]),
    ]
    outputs = [_info("go", TensorProto.BOOL, []), _info("next", FLOAT, [2, 3])]
    outputs += [_info("each", FLOAT, [2, 3])] if scan else []
    return helper.make_graph(nodes, "body", inputs, outputs)


@forms_of("Loop")
def loop(schema: Schema) -> Iterator[Form]:
    state = data("float32", (2, 3), "state")
    for scan in (False, True):
        attributes = {"body": _loop_body(scan)}
        for limit in (None, 0, 2, 9):
            for going in (None, True, False):
                if limit is None and going is None:
                    continue  # without end, were it not for the body
                trip = None if limit is None else np.array(limit)
                go = None if going is None else np.array(going)
                what = f"scan {scan} limit {limit} going {going}"
                yield Form(what, attributes, (trip, go, state), 2 if scan else 1)


def _moving_body(dtype: str) -> onnx.GraphProto:
    """The state as it is, and the row."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("state", "same"), ("row", "one"))]
    inputs = [_info(name, kind, [3]) for name in ("state", "row")]
    return helper.make_graph(nodes, "body", inputs, [_info(n, kind, [3]) for n in ("same", "one")])


def _scan_body() -> onnx.GraphProto:
    nodes = [
        helper.make_node("Add", ["state", "a"], ["sum"]),
        helper.make_node("Mul", ["sum", "b"], ["next"]),
        helper.make_node("Neg", ["next"], ["one"]),
        helper.make_node("Abs", ["sum"], ["two"]),
    ]
    inputs = [_info(name, FLOAT, [3]) for name in ("state", "a", "b")]
    outputs = [_info(name, FLOAT, [3]) for name in ("next", "one", "two")]
    return helper.make_graph(nodes, "body", inputs, outputs)


@forms_of("Scan")
def scan(schema: Schema) -> Iterator[Form]:
    batch = (2,) if schema.since_version == 8 else ()
    for dtype in allowed(schema):
        inputs: tuple[Any, ...] = (
            data(dtype, (*batch, 3), "state"),
            data(dtype, (*batch, 4, 3), "rows"),
        )
        body = {"body": _moving_body(dtype), "num_scan_inputs": 1}
        yield Form(f"moving {dtype}", body, (None, *inputs) if batch else inputs, 2)
    base = {"body": _scan_body(), "num_scan_inputs": 2}
    if schema.since_version == 8:
        state = data("float32", (2, 3), "state")
        a, b = (data("float32", (2, 4, 3), name) for name in "ab")
        for attributes in choices(schema, directions=[[0, 1]]):
            chosen = {**base, **attributes}
            yield Form(label(attributes), chosen, (None, state, a, b), 3)
        yield Form("lengths", base, (np.array([4, 4]), state, a, b), 3)
        return
    state = data("float32", (3,), "state")
    a, b = (data("float32", (4, 3), name) for name in "ab")
    for attributes in choices(
        schema, scan_input_directions=[[0, 1]], scan_output_directions=[[1, 0]]
    ):
        yield Form(label(attributes), {**base, **attributes}, (state, a, b), 3)
    axes = {"scan_input_axes": [1, 0], "scan_output_axes": [1, 0]}
    turned = data("float32", (3, 4), "a")
    yield Form("axes", {**base, **axes}, (state, turned, b), 3)


@forms_of("SequenceMap")
def sequence_map(schema: Schema) -> Iterator[Form]:
    nodes = [helper.make_node("Add", ["x", "y"], ["sum"]), helper.make_node("Neg", ["x"], ["neg"])]
    body = helper.make_graph(
        nodes,
        "body",
        [_info("x", FLOAT, [2, 3]), _info("y", FLOAT, [2, 3])],
        [_info("sum", FLOAT, [2, 3]), _info("neg", FLOAT, [2, 3])],
    )
    values, other = _sequence(), _sequence()[::-1]
    yield Form("two sequences", {"body": body}, (values, other), 2)
    yield Form("a tensor", {"body": body}, (values, data("float32", (2, 3), "y")), 2)


@forms_of("Attention")
def attention(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        q = data(dtype, (2, 4, 3, 8), "q")
        k, v = (data(dtype, (2, 2, 5, 8), name) for name in "kv")
        flat = {"q_num_heads": 4, "kv_num_heads": 2}
        q3 = data(dtype, (2, 3, 32), "q")
        k3, v3 = (data(dtype, (2, 5, 16), name) for name in "kv")
        masks: list[Any] = [None, data(dtype, (3, 5), "mask"), data("bool", (2, 1, 3, 5), "mask")]
        masks[2][..., 0] = True  # no row of which nothing is left
        for attributes in choices(
            schema,
            is_causal=[0, 1],
            scale=[0.3],
            softcap=[0.0, 2.0],
            softmax_precision=[TensorProto.FLOAT],
            qk_matmul_output_mode=[0, 1, 2, 3],
            left_window_size=[1],
            right_window_size=[2],
        ):
            wants = 4 if "qk_matmul_output_mode" in attributes else 1
            for index, mask in enumerate(masks):
                what = label(attributes, dtype, "mask", index)
                more = () if mask is None else (mask,)
                yield Form(what, attributes, (q, k, v, *more), wants)
                chosen = {**attributes, **flat}
                yield Form(f"{what} flat", chosen, (q3, k3, v3, *more), wants)
        past = [data(dtype, (2, 2, 4, 8), name) for name in ("past k", "past v")]
        for attributes in choices(schema, is_causal=[1]):
            inputs = (q, k, v, None, *past)
            yield Form(label(attributes, dtype, "past"), attributes, inputs, 3)
            if len(schema.inputs) > 6:
                lengths = np.array([5, 4], np.int64)
                inputs = (q, k, v, None, None, None, lengths)
                yield Form(label(attributes, dtype, "lengths"), attributes, inputs)


@forms_of("RotaryEmbedding")
def rotary(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        x = data(dtype, (2, 4, 3, 8), "rotary")
        flat = data(dtype, (2, 3, 32), "rotary")
        places = np.array([[0, 1, 2], [2, 4, 6]], np.int64)
        for attributes in choices(schema, interleaved=[0, 1], rotary_embedding_dim=[0, 4]):
            width = (attributes.get("rotary_embedding_dim") or 8) // 2
            cos, sin = (data(dtype, (9, width), name) for name in ("cos", "sin"))
            yield Form(label(attributes, dtype), attributes, (x, cos, sin, places))
            heads = {**attributes, "num_heads": 4}
            yield Form(label(heads, dtype), heads, (flat, cos, sin, places))
            cos, sin = (data(dtype, (2, 3, width), name) for name in ("cos", "sin"))
            yield Form(label(attributes, dtype, "no places"), attributes, (x, cos, sin))


@forms_of("LinearAttention")
def linear_attention(schema: Schema) -> Iterator[Form]:
    rules = ["linear", "gated", "delta", "gated_delta"]
    for dtype in allowed(schema):
        for attributes in product(schema, update_rule=[None, *rules], scale=[None, 0.5]):
            chosen = {"q_num_heads": 2, "kv_num_heads": 2, **attributes}
            rule = attributes.get("update_rule", "gated_delta")
            q, k, v = ((data(dtype, (2, 4, 16), name) / 4).astype(dtype) for name in "qkv")
            decay = -positive(dtype, (2, 4, 2), "decay") if "gated" in rule else None
            beta = (positive(dtype, (2, 4, 2), "beta") / 4).astype(dtype)
            state = data(dtype, (2, 2, 8, 8), "state")
            for past in (None, state):
                inputs = (q, k, v, past, decay, beta if "delta" in rule else None)
                yield Form(label(chosen, dtype, past is not None), chosen, inputs, 2)


@forms_of("CausalConvWithState")
def causal_conv(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for attributes in choices(schema, activation=["none", "silu", "swish"]):
            x, w = data(dtype, (2, 3, 6), "causal"), data(dtype, (3, 1, 4), "filters")
            bias, state = data(dtype, (3,), "bias"), data(dtype, (2, 3, 3), "state")
            for more in ((), (bias,), (bias, state), (None, state)):
                what = label(attributes, dtype, [m is not None for m in more])
                yield Form(what, attributes, (x, w, *more), 2)

"""Forms of normalisations, recurrent layers, losses and random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto

from forms.base import (
    SHAPES,
    Form,
    Schema,
    allowed,
    choices,
    data,
    forms_of,
    has,
    label,
    main,
    positive,
    product,
)


@forms_of("BatchNormalization")
def batch_norm(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (2, 3, 4, 5) if dtype == main(schema) else (4,):
            x = data(dtype, SHAPES[rank], "norm")
            vectors = [data(dtype, (x.shape[1],), name) for name in ("scale", "bias", "mean")]
            inputs = (x, *vectors, positive(dtype, (x.shape[1],), "variance"))
            for attributes in choices(schema, epsilon=[0.1], momentum=[0.7], spatial=[1]):
                what = label(attributes, dtype, rank)
                yield Form(what, attributes, inputs)
                if has(schema, "training_mode"):
                    yield Form(f"{what} inference", {**attributes, "training_mode": 0}, inputs)
                    training = {**attributes, "training_mode": 1}
                    yield Form(f"{what} training", training, inputs, 3)
                else:  # the last output is the runtime's own affair
                    yield Form(f"{what} training", attributes, inputs, 5, shown=4)
    if has(schema, "spatial"):
        shape = SHAPES[4][1:]
        each = [data("float32", shape, name) for name in ("scale", "bias", "mean")]
        inputs = (data("float32", SHAPES[4], "norm"), *each, positive("float32", shape, "variance"))
        yield Form("spatial=0", {"spatial": 0}, inputs)


@forms_of("InstanceNormalization")
def instance_norm(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (3, 4, 5):
            for attributes in choices(schema, epsilon=[0.1]):
                x = data(dtype, SHAPES[rank], "norm")
                vectors = [data(dtype, (x.shape[1],), name) for name in ("scale", "bias")]
                yield Form(label(attributes, dtype, rank), attributes, (x, *vectors))


@forms_of("GroupNormalization")
def group_norm(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for rank in (3, 4, 5):
            for groups in (1, 2, 6):
                for more in choices(schema, epsilon=[0.1], stash_type=[1]):
                    x = data(dtype, (2, 6, *SHAPES[rank][2:]), "norm")
                    count = groups if schema.since_version < 21 else 6
                    vectors = [data(dtype, (count,), name) for name in ("scale", "bias")]
                    attributes = {"num_groups": groups, **more}
                    yield Form(label(attributes, dtype, rank), attributes, (x, *vectors))


@forms_of("LayerNormalization", "RMSNormalization")
def layer_norm(schema: Schema) -> Iterator[Form]:
    centred = schema.name == "LayerNormalization"
    for dtype in allowed(schema):
        for rank in (2, 3, 4) if dtype == main(schema) else (3,):
            for axis in (None, 1, -1, -rank + 1, 0):
                for more in choices(schema, epsilon=[0.1], stash_type=[1]):
                    attributes = more if axis is None else {**more, "axis": axis}
                    x = data(dtype, SHAPES[rank], "norm")
                    shape = x.shape[-1 if axis is None else axis :]
                    scale, bias = data(dtype, shape, "scale"), data(dtype, shape, "bias")
                    what = label(attributes, dtype, rank)
                    yield Form(what, attributes, (x, scale))
                    if centred:
                        yield Form(f"{what} bias", attributes, (x, scale, bias))
                        if dtype != "float64":  # statistics are float32 then, by stash_type
                            yield Form(f"{what} all", attributes, (x, scale, bias), 3)


@forms_of("MeanVarianceNormalization", "LpNormalization")
def statistics(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for attributes in choices(schema, axes=[[1, 2, 3], [0], [2, 3]], axis=[0, 1, 2], p=[1, 2]):
            x = data(dtype, SHAPES[4], "norm")
            yield Form(label(attributes, dtype), attributes, (x,))
    if has(schema, "p"):
        x = np.array([[0, 0, 0], [3, 0, -4]], main(schema))
        for attributes in choices(schema, p=[1, 2]):
            yield Form(label(attributes, "zeros"), attributes, (x,))


FUNCTIONS = ["Relu", "Tanh", "Sigmoid", "Softsign", "Softplus", "Elu"]


@forms_of("LSTM", "GRU", "RNN")
def recurrent(schema: Schema) -> Iterator[Form]:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[schema.name]
    names = {"LSTM": 3, "GRU": 2, "RNN": 1}[schema.name]
    for dtype in allowed(schema):
        for direction in (None, "forward", "reverse", "bidirectional"):
            count = 2 if direction == "bidirectional" else 1
            time, batch, depth, units = 4, 3, 5, 2
            x = data(dtype, (time, batch, depth), "time")
            w = data(dtype, (count, gates * units, depth), "w")
            r = data(dtype, (count, gates * units, units), "r")
            b = data(dtype, (count, 2 * gates * units), "b")
            lengths = np.array([4, 1, 3], np.int32)
            state = data(dtype, (count, batch, units), "state")
            base: dict[str, Any] = {"hidden_size": units}
            base |= {} if direction is None else {"direction": direction}
            outputs = 3 if schema.name == "LSTM" else 2
            optional: list[tuple[Any, ...]] = [(), (b,), (b, lengths), (b, lengths, state)]
            optional += [(None, None, state)]
            if schema.name == "LSTM":
                peep = data(dtype, (count, 3 * units), "peep")
                optional += [(b, None, state, state), (b, lengths, state, state, peep)]
            for more in optional:
                given = [m is not None for m in more]
                yield Form(label(base, dtype, given), base, (x, w, r, *more), outputs)
            yield Form(label(base, dtype, "first"), base, (x, w, r, b), 1)
            small = {k: v for k, v in base.items() if k != "hidden_size"}
            yield Form(label(small, dtype, "size of the weights"), small, (x, w, r, b), 1)
            for extra in choices(
                schema, clip=[0.5], input_forget=[1], linear_before_reset=[1], layout=[1]
            ):
                chosen = {**base, **extra}
                inputs = (x.swapaxes(0, 1).copy() if "layout" in extra else x, w, r, b)
                yield Form(label(chosen, dtype), chosen, inputs, outputs)
            for function in FUNCTIONS:  # without bounds of their own, so small numbers
                chosen = {**base, "activations": [function] * names * count}
                small = (x, *(array / 4 for array in (w, r, b)))
                yield Form(label(chosen, dtype), chosen, small, outputs)
            scaled = {"activation_alpha": [0.3] * names * count}
            chosen = {**base, "activations": ["LeakyRelu"] * names * count, **scaled}
            yield Form(label(chosen, dtype), chosen, (x, w, r, b), outputs)
            both = {**scaled, "activation_beta": [0.6] * names * count}
            for function in ("Affine", "HardSigmoid", "ScaledTanh"):
                chosen = {**base, "activations": [function] * names * count, **both}
                yield Form(label(chosen, dtype), chosen, (x, w, r, b), outputs)


@forms_of("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def losses(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        for shape in ((3, 5), (3, 5, 2), (2, 5, 3, 2)) if dtype == main(schema) else ((3, 5, 2),):
            for attributes in product(
                schema, reduction=[None, "none", "sum", "mean"], ignore_index=[None, 1, -7]
            ):
                x = data(dtype, shape, "scores")
                for kind in ("int64", "int32") if len(shape) == 2 else ("int64",):
                    target = data("uint8", (shape[0], *shape[2:]), "labels") % 5
                    target = target.astype(kind)
                    if attributes.get("ignore_index") == -7:
                        target.reshape(-1)[0] = -7
                    what = label(attributes, dtype, shape, kind)
                    yield Form(what, attributes, (x, target))
                    weight = positive(dtype, (5,), "weight")
                    outputs = len(schema.outputs)
                    yield Form(f"{what} weight", attributes, (x, target, weight), outputs)


@forms_of("Bernoulli", "Multinomial")
def draws(schema: Schema) -> Iterator[Form]:
    for dtype in allowed(schema):
        x = np.abs(data(dtype, (3, 4), "draws")) % 1
        kinds = [TensorProto.INT32, TensorProto.INT64]
        for attributes in choices(schema, dtype=kinds, seed=[3.0], sample_size=[5]):
            yield Form(label(attributes, dtype), attributes, (x.astype(dtype),))


NUMBERS: dict[str, list[Any]] = {
    "dtype": [TensorProto.FLOAT, TensorProto.DOUBLE],
    "seed": [3.0],
    "mean": [2.0],
    "scale": [0.1],
    "low": [-1.0],
    "high": [2.0],
}


@forms_of("RandomNormal", "RandomUniform")
def random_shaped(schema: Schema) -> Iterator[Form]:
    for attributes in choices(schema, **NUMBERS):
        yield Form(label(attributes), {"shape": [3, 4], **attributes})


@forms_of("RandomNormalLike", "RandomUniformLike")
def random_like(schema: Schema) -> Iterator[Form]:
    for attributes in choices(schema, **NUMBERS):
        yield Form(label(attributes), attributes, (data("float32", (3, 4), "like"),))
    for dtype in allowed(schema):
        attributes = {} if dtype.startswith("float") else {"dtype": TensorProto.FLOAT}
        yield Form(label(attributes, dtype), attributes, (data(dtype, (3, 4), "like"),))

"""A web service of one's own around an engine: handwritten digits in, their classes out.

    prunedeploy optimize examples/digits/resnet56_digits_sparse.pt -o out/digits
    ENGINE=out/digits uvicorn --app-dir examples/service app:app
    curl localhost:8000/digits -H 'Content-Type: application/json' \
        -d "{\"pixels\": [$(yes '[0,0,5,13,9,1,0,0]' | head -8 | paste -sd,)]}"

The network takes 32 x 32 pixels from -1 to 1; the service takes 8 x 8 grey levels from 0 to 16, as
scikit-learn has them.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, Field

import prunedeploy

Row = Annotated[list[Annotated[float, Field(ge=0, le=16)]], Field(min_length=8, max_length=8)]


class Digit(BaseModel):
    """A request."""

    pixels: Annotated[list[Row], Field(min_length=8, max_length=8)]


class Answer(BaseModel):
    """The class, and how sure the network is of it."""

    digit: int
    probability: float


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the engine once, not in every request."""
    with prunedeploy.open(os.environ["ENGINE"]) as app.state.session:
        yield


app = FastAPI(title="Digits", lifespan=lifespan)


@app.post("/digits")
def classify(digit: Digit) -> Answer:
    """Classify one digit.

    A plain function, not an ``async`` one: it then runs in a thread, and the server goes on taking
    requests meanwhile. Threads may share a session.
    """
    session = app.state.session
    pixels = np.array(digit.pixels, np.float32).repeat(4, 0).repeat(4, 1) / 8 - 1
    feeds = {session.inputs[0].name: pixels[None, None]}
    logits = session.run(feeds)[session.outputs[0].name][0]
    shares = np.exp(logits - logits.max())
    best = int(shares.argmax())
    return Answer(digit=best, probability=float(shares[best] / shares.sum()))

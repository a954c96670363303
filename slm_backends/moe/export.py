"""One run's routing as a file, for a notebook or a later look: JSON and Parquet, and back.

JSON, with names that read by themselves:

    {"format": 1,
     "facts": {"model": ..., "revision": ..., "prompt": ...},
     "mixture": {"layers": 6, "experts": 16, "k": 2, "prompt_tokens": 9},
     "told": ["weights", "scores"],
     "tokens": [{"place": 0, "part": "prompt", "id": 17, "token": "Add",
                 "layers": [{"experts": [3, 7], "weights": [...], "scores": [...]}, ...]}, ...]}

Parquet has a row for each token, layer and expert that worked, in that order, the best expert
first. Its columns are place, part, id, token, layer, rank, expert, weight, score; and in the row of
rank 0 the scores of all experts of the layer. Facts and mixture are in the metadata of its schema.

Experts, layers and places count from 0. Where a server did not tell weights or scores, they are
left out. Knows the shape of a trace and faults of files; what the facts are is a caller's matter.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy
import pyarrow
from pyarrow import parquet

from slm_backends.errors import BadRequest
from slm_backends.moe.trace import Array, Trace

FORMAT = 1
MAX_BYTES = 200_000_000
MAX_ROWS = 20_000_000  # of a Parquet file: a small one may unfold to very many
_KEY = b"slm_routing"  # of the schema's metadata
_MAGIC = b"PAR1"


def as_json(trace: Trace, facts: Mapping[str, Any]) -> bytes:
    """`facts` are what JSON can hold. Scores are written to the five digits that tell one float16
    from the next: as such they were told."""
    weights = None if trace.weights is None else _short(trace.weights)
    scores = None if trace.scores is None else _short(trace.scores.astype(numpy.float16))
    chosen = trace.chosen.tolist()
    tokens = [
        {
            "place": place,
            "part": _part(trace, place),
            "id": trace.ids[place],
            "token": trace.tokens[place],
            "layers": [
                {"experts": chosen[place][layer]}
                | ({} if weights is None else {"weights": weights[place][layer]})
                | ({} if scores is None else {"scores": scores[place][layer]})
                for layer in range(trace.layers)
            ],
        }
        for place in range(len(trace))
    ]
    return _written({**_head(trace, facts), "tokens": tokens}).encode()


def as_parquet(trace: Trace, facts: Mapping[str, Any]) -> bytes:
    """As as_json; compressed with zstd, which every reader of Parquet knows."""
    count, layers, k = trace.chosen.shape
    parts = ["prompt", "reply"]
    place, layer, rank = _order(count, layers, k)
    columns: dict[str, Any] = {
        "place": place,
        "part": _named((place >= trace.prompt_tokens).astype(numpy.int32), parts),
        "id": numpy.repeat(numpy.array(trace.ids, numpy.int64), layers * k),
        "token": _named(place, [_whole(token) for token in trace.tokens]),
        "layer": layer,
        "rank": rank,
        "expert": trace.chosen.ravel(),
    }
    if trace.weights is not None:
        columns["weight"] = trace.weights.ravel()
    if trace.scores is not None:
        of_chosen = numpy.take_along_axis(trace.scores, trace.chosen.astype(numpy.int64), axis=2)
        columns["score"] = of_chosen.ravel()
        columns["scores"] = _first_of(k, trace.scores.reshape(count * layers, trace.experts))
    table = pyarrow.table(columns)
    head = _written(_head(trace, facts)).encode()
    made = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata({_KEY: head}), made, compression="zstd")
    return made.getvalue()


def read(content: bytes) -> tuple[Trace, dict[str, Any]]:
    """The trace and the facts of either file. Raises BadRequest for one that is neither."""
    if len(content) > MAX_BYTES:
        raise BadRequest(f"The file is larger than {MAX_BYTES / 1e6:.0f} MB.", field="file")
    try:
        return _read_parquet(content) if content.startswith(_MAGIC) else _read_json(content)
    except BadRequest:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        _foreign(error)
    except (RecursionError, pyarrow.ArrowException, OSError) as error:
        _foreign(error)


def _read_json(content: bytes) -> tuple[Trace, dict[str, Any]]:
    found = json.loads(content.decode("utf-8-sig"))
    layers, experts, k, prompt_tokens = _mixture(found)
    tokens = found["tokens"]
    if [token["place"] for token in tokens] != list(range(len(tokens))):
        raise ValueError("tokens in another order")
    shape = (len(tokens), layers)

    def array(name: str, kind: str, length: int) -> Array:
        rows = [[layer[name] for layer in token["layers"]] for token in tokens]
        return _array(numpy.array(rows), kind, (*shape, length))

    told = found["told"]
    trace = Trace(
        tuple(token["id"] for token in tokens),
        tuple(token["token"] for token in tokens),
        prompt_tokens,
        experts,
        array("experts", "<u2", k),
        array("weights", "<f4", k) if "weights" in told else None,
        # By way of the float16 that it was, whose five digits were written.
        array("scores", "<f2", experts).astype(numpy.float32) if "scores" in told else None,
    )
    return _checked(trace), dict(found["facts"])


def _read_parquet(content: bytes) -> tuple[Trace, dict[str, Any]]:
    file = parquet.ParquetFile(io.BytesIO(content), read_dictionary=["part", "token"])
    if file.metadata.num_rows > MAX_ROWS:
        raise BadRequest(f"The file has more than {MAX_ROWS:,} rows.", field="file")
    table = file.read()
    head = json.loads((table.schema.metadata or {})[_KEY])
    layers, experts, k, prompt_tokens = _mixture(head)
    told = head["told"]
    count = len(table) // (layers * k)
    shape = (count, layers)
    for name, expected in zip(("place", "layer", "rank"), _order(count, layers, k), strict=True):
        if not numpy.array_equal(table[name].to_numpy(), expected):
            raise ValueError("rows in another order")
    firsts = table.take(numpy.arange(count) * layers * k)

    def array(name: str, kind: str, length: int) -> Array:
        column = table[name].combine_chunks()
        values = column.drop_null().flatten() if name == "scores" else column
        return _array(values.to_numpy().reshape(*shape, length), kind, (*shape, length))

    trace = Trace(
        tuple(firsts["id"].to_pylist()),
        tuple(firsts["token"].to_pylist()),
        prompt_tokens,
        experts,
        array("expert", "<u2", k),
        array("weight", "<f4", k) if "weights" in told else None,
        array("scores", "<f4", experts) if "scores" in told else None,
    )
    return _checked(trace), dict(head["facts"])


def _head(trace: Trace, facts: Mapping[str, Any]) -> dict[str, Any]:
    mixture = {
        "layers": trace.layers,
        "experts": trace.experts,
        "k": trace.k,
        "prompt_tokens": trace.prompt_tokens,
    }
    told = [name for name in ("weights", "scores") if getattr(trace, name) is not None]
    return {"format": FORMAT, "facts": dict(facts), "mixture": mixture, "told": told}


def _mixture(head: Any) -> tuple[int, int, int, int]:
    """layers, experts, k and tokens of the prompt."""
    if head["format"] != FORMAT:
        raise BadRequest(
            "The file was written by another version of the playground.",
            field="file",
            hint="Export the run once more with this version.",
        )
    names = ("layers", "experts", "k", "prompt_tokens")
    layers, experts, k, prompt_tokens = (head["mixture"][name] for name in names)
    numbers = (layers, experts, k, prompt_tokens)
    if any(type(number) is not int for number in numbers) or min(numbers[:3]) < 1:
        raise ValueError("a mixture of nothing")
    return numbers


def _order(count: int, layers: int, k: int) -> tuple[Array, Array, Array]:
    """Place, layer and rank of each row of a Parquet file."""
    return (
        numpy.repeat(numpy.arange(count, dtype=numpy.int32), layers * k),
        numpy.tile(numpy.repeat(numpy.arange(layers, dtype=numpy.int16), k), count),
        numpy.tile(numpy.arange(k, dtype=numpy.int16), count * layers),
    )


def _array(values: Array, kind: str, shape: tuple[int, ...]) -> Array:
    """`values` as numbers of that kind, which they must be without loss of meaning."""
    if not values.size:
        values = values.reshape(shape).astype(kind)  # of no number nobody knows the kind
    if values.shape != shape or values.dtype.kind not in ("iu" if kind == "<u2" else "iuf"):
        raise ValueError("the sizes or the kinds of numbers do not fit")
    most = numpy.iinfo(kind).max if kind == "<u2" else numpy.finfo(kind).max
    if not ((values >= 0) & (values <= most)).all():
        raise ValueError("a number is none that can be")
    return values.astype(kind)


def _checked(trace: Trace) -> Trace:
    if not 0 <= trace.prompt_tokens <= len(trace):
        raise ValueError("more tokens of the prompt than there are")
    if trace.chosen.size and int(trace.chosen.max()) >= trace.experts:
        raise ValueError("an expert that the mixture has not")
    if any(type(number) is not int for number in trace.ids):
        raise ValueError("a token's number is none")
    if any(type(token) is not str for token in trace.tokens):
        raise ValueError("a token is no text")
    return trace


def _foreign(error: BaseException) -> NoReturn:
    raise BadRequest(
        "The file is no exported routing, or it is damaged.",
        field="file",
        hint="Choose a JSON or Parquet file of an exported routing.",
    ) from error


def _part(trace: Trace, place: int) -> str:
    return "prompt" if place < trace.prompt_tokens else "reply"


def _short(values: Array) -> Any:
    """As lists of numbers with no more digits than their kind needs to be read back exactly."""
    digits = 5 if values.dtype == numpy.float16 else 9
    flat = [float(f"%.{digits}g" % value) for value in values.ravel().tolist()]
    return numpy.array(flat).reshape(values.shape).tolist()


def _named(places: Array, names: list[str]) -> Any:
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array(places), pyarrow.array(names, "str"))


def _first_of(k: int, rows: Array) -> Any:
    """Each of `rows` as a list, followed by k - 1 times nothing."""
    width = rows.shape[1]
    begins = numpy.arange(len(rows) * k + 1, dtype=numpy.int32)
    begins = (begins + k - 1) // k * width
    filled = numpy.arange(len(rows) * k) % k != 0
    return pyarrow.ListArray.from_arrays(
        pyarrow.array(begins), pyarrow.array(rows.ravel()), mask=pyarrow.array(filled)
    )


def _written(value: Any) -> str:
    return _whole(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


def _whole(text: str) -> str:
    """Without the halves of characters that a server may send and no file can hold."""
    return text.encode(errors="replace").decode()

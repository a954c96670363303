"""What two exported runs of a mixture tell: a notebook in cells, or a script:

python -m examples.routing
"""

# %% The files, as slm_backends.moe.export writes them. JSON and Parquet hold the same.
from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import vl_convert
from pyarrow import compute, parquet

from slm_backends.moe import charts, export, figures

HERE = Path(__file__).parent
FIRST, SECOND = HERE / "story.parquet", HERE / "days.json"
PICTURES = Path(tempfile.mkdtemp(prefix="routing-"))

story, facts = export.read(FIRST.read_bytes())
days, other_facts = export.read(SECOND.read_bytes())
for trace, about in ((story, facts), (days, other_facts)):
    print(f"{about['model']} was asked: {about['prompt']}")
    print(f"  and replied: {about['reply']}")
    print(f"  {trace.prompt_tokens} tokens of the prompt, {len(trace.reply)} of the reply, in")
    print(
        f"  {trace.layers} layers with {trace.experts} experts, {trace.k} of which work on each.\n"
    )

# %% Load by layer: did the experts share the work?
print(figures.FORMULAS["max_over_mean"])
for layer in figures.balance(story):
    never = ", ".join(map(str, layer.unused)) or "none"
    print(
        f"layer {layer.layer}: max / mean {layer.max_over_mean:.2f}, "
        f"entropy {layer.entropy:.3f}, never used: {never}"
    )

# %% Which tokens an expert worked on: the busiest one of the last layer.
last = story.layers - 1
expert = int(figures.load(story)[last].argmax())
at = (story.chosen[:, last] == expert).any(axis=1).nonzero()[0]
worked_on = Counter(story.tokens[place] for place in at)
print(f"\nExpert {expert} of layer {last} worked on {len(at)} of {len(story)} tokens:")
print("  " + ", ".join(f"{text!r} x {count}" for text, count in worked_on.most_common(12)))

# %% The same from the bare Parquet table, as any other program reads it.
table = parquet.read_table(FIRST)
mine = (compute.field("layer") == last) & (compute.field("expert") == expert)
rows = table.filter(mine)
assert rows["place"].to_pylist() == at.tolist()
print(f"  with a mean weight of {compute.mean(rows['weight']).as_py():.3f}, what the model used,")
print(f"  and a mean score of {compute.mean(rows['score']).as_py():.3f}, how the router ranked it.")

# %% How far the two runs lie apart, by layer.
print("\n" + figures.FORMULAS["divergence"])
for number, bits in enumerate(figures.divergence(story, days)):
    print(f"layer {number}: {bits:.3f} bits  {'#' * round(40 * bits)}")

# %% Pictures. In a notebook, altair.Chart.from_dict(spec) shows one.
drawn = {
    "load": charts.heat_map(story),
    "flow": charts.flow(story),
    "pairs": charts.pairs(story),
    "divergence": charts.divergence(story, days),
}
for name, spec in drawn.items():
    svg = vl_convert.vegalite_to_svg(spec | {"width": 520, "background": "white"})
    (PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8")
print(f"\nPictures: {', '.join(f'{name}.svg' for name in drawn)} in {PICTURES}")

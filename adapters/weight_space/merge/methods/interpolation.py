"""LiNeS: scale the change of a layer by its depth.

Wang et al. 2024, section 4: the delta of layer l of L, counted from 0, is scaled by

    a + b * l / (L - 1)

which is a in the first layer and a + b in the last. With several adapters their weighted sum is
scaled, as the paper scales merged task vectors.

l is the first number in a module's name (`model.layers.3.mlp.up_proj`). L is the length of the
numbered stack (`model.layers`): `layers`, or by default one more than the highest number that an
adapter changes; give `layers` if the adapters leave out the last layers. A stack of one layer is
scaled by a, and so is what lies outside the numbered layers, such as the output head
(`LiNeS_scaling` in src/eval/eval.py of wang-kee/LiNeS).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from adapters.errors import MergeError
from adapters.weight_space.factors import Factors
from adapters.weight_space.merge.inputs import Inputs, combination
from adapters.weight_space.merge.method import (
    Combine,
    Method,
    Parameter,
    RankRule,
    Step,
    Values,
    number,
)

_LAYER = re.compile(r"(?P<stack>.*?)\.(?P<layer>\d+)(?:\..*)?")


def depths(modules: Iterable[str], layers: int | None) -> dict[str, float]:
    """Return module -> l / (L - 1): 0 in the first layer and outside the layers, 1 in the last.

    Raises:
        MergeError: the number of a module's layer is not below `layers`.
    """
    places: dict[str, tuple[str, int]] = {}
    for module in modules:
        if match := _LAYER.fullmatch(module):
            places[module] = (match["stack"], int(match["layer"]))
    highest: dict[str, int] = {}
    for module, (stack, layer) in places.items():
        highest[stack] = max(layer, highest.get(stack, 0))
        if layers is not None and layer >= layers:
            raise MergeError(
                f"{module} is in layer {layer}, but layers is {layers}; "
                "give the number of layers of the base model",
                param="layers",
            )
    last = {stack: (layers or top + 1) - 1 for stack, top in highest.items()}
    depth = {module: n / max(last[stack], 1) for module, (stack, n) in places.items()}
    return {module: depth.get(module, 0.0) for module in modules}


def prepare(inputs: Inputs, values: Values, step: Step) -> Combine:
    a, b, layers = number(values, "a"), number(values, "b"), values["layers"]
    depth = depths(inputs.modules, None if layers is None else int(layers))

    def combine(module: str) -> Factors:
        scale = a + b * depth[module]
        return combination(inputs, module, [scale * weight for weight in inputs.weights])

    return combine


METHOD = Method(
    name="lines",
    title="LiNeS",
    citation='Wang et al. 2024, "LiNeS: Post-training Layer Scaling Prevents Forgetting and '
    'Enhances Model Merging", arXiv:2410.17146',
    formula="(a + b*l/(L-1)) * sum_k w_k*d_k in layer l of L, a elsewhere",
    prepare=prepare,
    parameters=(
        Parameter("a", "scale of the first layer, and outside the layers", required=True),
        Parameter("b", "extra scale of the last layer (last = a + b)", required=True),
        Parameter(
            "layers",
            "number of layers L; null counts those that the adapters change",
            low=1,
            whole=True,
            optional=True,
        ),
    ),
    rank=RankRule.OPTIONAL,
)

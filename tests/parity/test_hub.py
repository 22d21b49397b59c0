"""The hub models and their blocks against the published ones: names, shapes, counts and outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from boxwright.yolo import graph
from boxwright.yolo.hub_layers import Contract, Expand
from boxwright.yolo.spec import ModelSpec
from boxwright.yolo.weights import fuse
from boxwright.yolo.zoo import build_model, load_spec
from tests.golden import assert_recorded, golden_cases, read_case
from tests.golden.fill import fill_torch
from tests.parity.test_keys import skeleton

RAW = {"rtol": 1e-4, "atol": 5e-4}
BLOCK = {"rtol": 1e-4, "atol": 1e-4}
WITHOUT_SITE = {  # blocks that are torch's own, or need no activation
    "ConvTranspose2d": nn.ConvTranspose2d,
    "DWConvTranspose2d": lambda c1, c2, *rest: nn.ConvTranspose2d(c1, c2, *rest, groups=int(np.gcd(c1, c2))),
    "Contract": Contract,
    "Expand": Expand,
}


@pytest.mark.parametrize("file", golden_cases("keys", "*.json", "hub"))
def test_model_is_the_published_one(file: Path) -> None:
    facts = json.loads(file.read_text())
    model = skeleton(load_spec(facts["model"], facts["nc"]), max(64, int(max(facts["strides"]))))
    # The rows of the file say the same as our model file of that name.
    written = {"nc": facts["nc"], **facts["yaml"]}
    assert ModelSpec.from_mapping(written).to_mapping() == model.spec.to_mapping()
    assert [[list(anchor) for anchor in level] for level in model.spec.anchors] == facts["anchors_in_pixels"]
    parameters = dict(model.named_parameters())
    rows = [
        [key, list(v.shape), str(v.dtype).removeprefix("torch."), "parameter" if key in parameters else "buffer"]
        for key, v in model.state_dict().items()
    ]
    assert rows == facts["state_dict"]
    assert sum(p.numel() for p in parameters.values()) == facts["n_parameters"]
    assert sum(1 for _ in model.modules()) == facts["n_modules"]
    assert list(model.strides) == facts["strides"]
    assert sorted(model._kept) == sorted(set(facts["save_indices"]))
    layers = [
        {
            "i": info.index,
            "from": info.sources[0] if len(info.sources) == 1 else list(info.sources),
            "type": info.block,
            "params": info.num_parameters,
        }
        for info in model.layers
    ]
    assert layers == facts["layers"]
    if "activation" in facts["yaml"]:
        assert {type(m).__name__ for m in model.modules() if not list(m.children())} >= set(facts["activation"])


@pytest.mark.parametrize("file", golden_cases("forward", "*.npz", "hub"))
def test_outputs(file: Path) -> None:
    arrays, facts = read_case(file)
    model = build_model(load_spec(facts["model"], facts["nc"]))
    fill_torch(model, facts["fill_gain"])
    assert list(model.strides) == facts["strides"]
    image = torch.from_numpy(arrays["input"])
    for network, tolerance in ((model.eval(), RAW), (fuse(model), {"rtol": 1e-4, "atol": 3e-2})):
        with torch.no_grad():
            raw = network(image)
            decoded = network.decode(raw).numpy()
        for i, level in enumerate(raw):
            assert_recorded(level.numpy(), arrays, f"raw{i}", **tolerance)
        assert_recorded(decoded, arrays, "decoded", slice(4), rtol=1e-4, atol=3e-2)
        assert_recorded(decoded, arrays, "decoded", slice(4, None), **tolerance)


@pytest.mark.parametrize("file", golden_cases("blocks", "*.npz", "hub"))
def test_block(file: Path) -> None:
    arrays, facts = read_case(file)
    args = [tuple(a) if isinstance(a, list) else a for a in facts["args"]]
    if facts["block"] in WITHOUT_SITE:
        block = WITHOUT_SITE[facts["block"]](*args)
    else:
        recipe = graph.BLOCKS[facts["block"]]
        assert isinstance(recipe, graph.Widening)
        block = recipe.kind(*args, **({"activation": nn.LeakyReLU(0.1)} if recipe.activated else {}))
    assert [[key, list(v.shape)] for key, v in block.state_dict().items()] == facts["state_dict"]
    assert sum(p.numel() for p in block.parameters()) == facts["n_parameters"]
    fill_torch(block, facts["fill_gain"])
    with torch.no_grad():
        output = block.eval()(torch.from_numpy(arrays["input"]))
    assert_recorded(output.numpy(), arrays, "output", **BLOCK)

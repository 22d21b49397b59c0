"""Names, shapes, counts and first values of the network against the published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from boxwright.centerfusion.network import CenterFusion, CenterFusionSpec
from tests.golden import golden_cases, read_case
from tests.golden.fill import fill_torch

CASES = golden_cases("", "model_schema.json", family="centerfusion")


@pytest.fixture(scope="module")
def model() -> CenterFusion:
    torch.manual_seed(0)
    return CenterFusion(CenterFusionSpec())


@pytest.mark.parametrize("file", CASES)
def test_entries_in_order(file: Path, model: CenterFusion) -> None:
    _, schema = read_case(file)
    parameters = dict(model.named_parameters())
    ours = [
        (name, list(value.shape), str(value.dtype).removeprefix("torch."), name in parameters)
        for name, value in model.state_dict().items()
    ]
    theirs = [(e["name"], e["shape"], e["dtype"], e["kind"] == "parameter") for e in schema["keys"]]
    assert ours == theirs
    assert len(ours) == schema["n_state_dict_entries"]
    assert len(parameters) == schema["n_parameters_tensors"]
    assert [*model.first_heads, *model.second_heads] == schema["head_order"]


@pytest.mark.parametrize("file", CASES)
def test_parameter_counts(file: Path, model: CenterFusion) -> None:
    _, schema = read_case(file)
    assert sum(p.numel() for p in model.parameters()) == schema["parameter_total"]
    for name, count in (schema["parameter_counts"] | schema["parameter_counts_sub"]).items():
        assert sum(p.numel() for p in model.get_submodule(name).parameters()) == count, name
    unused = [name for name, _ in model.named_parameters() if name.startswith(model.unused_prefixes)]
    assert unused == schema["unused_parameters"]


@pytest.mark.parametrize("file", CASES)
def test_first_values(file: Path, model: CenterFusion) -> None:
    _, schema = read_case(file)
    state = model.state_dict()
    assert schema["up_keys"]
    for name, shape in schema["up_keys"].items():
        expected = torch.tensor(schema["up_kernels_at_init"][str(shape[-1])])
        torch.testing.assert_close(state[name], expected.expand(shape), rtol=0, atol=0, msg=name)
    for name, bias in schema["head_last_bias_at_init"].items():
        last = max(key for key in state if key.startswith(f"{name}.") and key.endswith(".bias"))
        assert state[last].tolist() == bias
        if name != "hm":
            assert not state[f"{name}.0.bias"].any()


@pytest.mark.parametrize("file", CASES)
def test_fill(file: Path) -> None:
    """The weights of all other groups are filled as theirs were."""
    _, schema = read_case(file)
    state = fill_torch(CenterFusion(CenterFusionSpec())).state_dict()
    assert schema["recipe_fill_sums"]
    for name, facts in schema["recipe_fill_sums"].items():
        values = state[name].double().numpy().ravel()
        sums = [facts["sum"], facts["abs_sum"]]
        np.testing.assert_allclose([values.sum(), np.abs(values).sum()], sums, rtol=1e-6, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(values[:4], facts["first4"], rtol=1e-6, err_msg=name)

"""What published releases of YOLOv5 did differently with the same rows: activations, constants, stored buffers.

Source: facts recorded from the published releases (spec B1, B14). The loss of each release is in losses/releases.py.
"""

from __future__ import annotations

from dataclasses import dataclass

from boxwright.errors import UserError


@dataclass(frozen=True)
class Generation:
    """One release.

    Args:
        activation: of every convolution, as a model yaml writes it; a yaml's own activation goes before it.
        csp_activation: after the joint batch norm of BottleneckCSP.
        class_margin: keeps the prior of the class bias finite for one class.
        batch_norm_eps: of every batch norm.
        recipe: the loss that it was trained with.
        early: up to v5.0. Its files hold the anchors once more, in pixels, and its layer table shows 1 for blocks that
            repeat inside.
    """

    activation: str
    csp_activation: str
    class_margin: float
    batch_norm_eps: float = 1e-3
    recipe: str = "v5"
    early: bool = False


_LEAKY, _SILU = "nn.LeakyReLU(0.1)", "nn.SiLU()"
CURRENT = "v7.0"
GENERATIONS: dict[str, Generation] = {
    "v1.0": Generation(_LEAKY, _LEAKY, 0.99, batch_norm_eps=1e-4, recipe="v1.0", early=True),
    "v2.0": Generation(_LEAKY, _LEAKY, 0.99, recipe="v2.0", early=True),
    # As tagged; the weights published with this release have the Hardswish of v3.1.
    "v3.0": Generation(_LEAKY, _LEAKY, 0.99, recipe="v3.0", early=True),
    "v3.1": Generation("nn.Hardswish()", _LEAKY, 0.99, recipe="v3.1", early=True),
    "v4.0": Generation(_SILU, _LEAKY, 0.99, recipe="v4.0", early=True),
    "v5.0": Generation(_SILU, _LEAKY, 0.99, early=True),
    "v6.0": Generation(_SILU, _LEAKY, 0.99),
    "v6.1": Generation(_SILU, _SILU, 0.999999),
    "v6.2": Generation(_SILU, _SILU, 0.999999),
    "v7.0": Generation(_SILU, _SILU, 0.99999),
}


def find_generation(name: str) -> Generation:
    """Look up a release by its tag.

    Raises:
        UserError: not one of those known; lists them.
    """
    if name not in GENERATIONS:
        raise UserError(f"no release {name!r} of YOLOv5 is known here; there are {', '.join(GENERATIONS)}")
    return GENERATIONS[name]

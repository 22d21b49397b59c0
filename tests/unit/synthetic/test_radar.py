"""One measurement of a made radar: objects that something hides return nothing."""

import numpy as np

from boxwright.synthetic.catalog import make_rig
from boxwright.synthetic.radar import measure
from boxwright.synthetic.world import WorldSettings, make_scene


def test_hidden_objects_return_nothing() -> None:
    scene = make_scene(WorldSettings(), 0)
    mounts = make_rig(np.random.default_rng(0), 160, 90).radars
    number = len(scene.placement.kinds)

    def owners(visible: np.ndarray) -> set[int]:
        rng = np.random.default_rng(1)
        found = [measure(scene, mount, 0.0, visible, rng)[1] for mount in mounts for _ in range(5)]
        return set(np.concatenate(found).tolist()) - {-1}

    everything = owners(np.ones(number))
    assert len(everything) > 5
    assert owners(np.zeros(number)) == set()
    half = np.where(np.arange(number) % 2, 0.07, 0.09)  # a share of 0.08 is enough to be seen
    assert {owner % 2 for owner in everything} == {0, 1}
    assert {owner % 2 for owner in owners(half)} == {0}

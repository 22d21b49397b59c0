"""Settings of how radar sweeps are read, which a system passes on to its splits. Imports no torch."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from boxwright.settings.base import Frozen, as_list, setting

States = Annotated[tuple[Annotated[int, Field(ge=0, le=17)], ...], BeforeValidator(as_list)]


class RadarReading(Frozen):
    """Which points of a sweep are kept, and where they are put; the defaults are those of devkit and CenterFusion.

    A point has a state of each kind, see the `dyn_prop`, `ambig_state` and `invalid_state` of `RADAR_FIELDS`.
    """

    dyn_prop: States = setting(
        (0, 1, 2, 3, 4, 5, 6),
        "dynamic properties of the points that are kept (0 moving, 1 stationary, 2 oncoming, 3 stationary candidate, "
        "4 unknown, 5 crossing stationary, 6 crossing moving, 7 stopped); empty: all",
    )
    ambig_state: States = setting(
        (3,), "Doppler ambiguities of the points that are kept (3 unambiguous, 4 stationary candidates); empty: all"
    )
    invalid_state: States = setting(
        (0,), "validities of the points that are kept (0 valid, 1 to 17 as in the data set); empty: all"
    )
    move_points: bool = setting(
        False, "move points along their velocity to the time of the image; published: by the ego motion alone"
    )

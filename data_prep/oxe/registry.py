"""The datasets this project can read, by their names in Open X-Embodiment.

The tables lie in `registry_*.py`. What they hold is what others published; where that is silent or contradicts itself,
`sources` says so, and one rule decides. A recorded command is used where its unit, its axes and its kind are known.
Otherwise motion is the reached one, from poses or by the kinematics of recorded joints: it needs none of the three, and
is what the frames show. Where not even that is to be had, the command is read as most loaders read it, or, if they
disagree, the dimension is unknown, and masked. `audit` puts each entry to the proof.
"""

import difflib
from dataclasses import replace

from whale.data_prep.oxe import registry_arms, registry_franka, registry_rtx
from whale.data_prep.oxe.registry_facts import cols
from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, PoseSpec
from whale.errors import UserError

_TABLETOP = DatasetSpec(
    name="tabletop",
    cameras={"image": "external"},
    control_period_sec=0.2,
    action=ActionSpec(frame=Frame.BASE, position=cols("action", 0, 3), gripper=cols("action", 6, 1)),
    pose=PoseSpec(position=cols("observation/state", 0, 3)),
    proprio=(cols("observation/state", 0),),
    has_rewards=True,
    success="success",
    source_keys=("file_path",),
    episode_keys=("file_path",),
    embodiment="simulated arm",
    licence="Apache-2.0",
    sources=("Written by `data_prep collect` from whale/sim/tabletop.py, which is the source of every fact here.",),
)

REGISTRY: dict[str, DatasetSpec] = {
    spec.name: spec for spec in (_TABLETOP, *registry_rtx.SPECS, *registry_franka.SPECS, *registry_arms.SPECS)
}

_ALSO = {  # the same files under names that Octo and OpenVLA give them, and LIBERO's other suites
    "fmb": ("fmb_dataset",),
    "robo_set": ("roboset",),
    "libero_spatial_no_noops": ("libero_object_no_noops", "libero_goal_no_noops", "libero_10_no_noops"),
}
REGISTRY |= {name: replace(REGISTRY[first], name=name) for first, names in _ALSO.items() for name in names}


def spec_of(name: str) -> DatasetSpec:
    """The entry of a dataset.

    Raises:
        UserError: there is none, or its actions cannot be made canonical.
    """
    if name not in REGISTRY:
        near = difflib.get_close_matches(name, REGISTRY, 1)
        raise UserError(
            f"the dataset {name!r} has no entry in data_prep/oxe/registry.py",
            (f"did you mean {near[0]!r}? " if near else "") + f"describe it, or convert one of: {', '.join(REGISTRY)}",
        )
    spec = REGISTRY[name]
    if spec.unusable is not None:
        raise UserError(f"the dataset {name!r} cannot be converted: {spec.unusable}", "choose another dataset")
    return spec

"""The datasets this project can read, by their names in Open X-Embodiment."""

from whale.actions import ActionStatus
from whale.clips.clip import ActionType
from whale.data_prep.oxe import transforms
from whale.data_prep.oxe.spec import DatasetSpec
from whale.errors import UserError
from whale.sim.tabletop import ACTION_STATUS

_SPECS = (
    DatasetSpec(
        name="tabletop",
        cameras={"image": "external"},
        control_period_sec=0.2,
        proprio_key="state",
        action_type=ActionType.EEF_DELTA,
        action_status=ACTION_STATUS,
        transform=transforms.tabletop,
        has_rewards=True,
        source_keys=("file_path",),
        episode_keys=("file_path",),
        success_key="success",
        licence="Apache-2.0",
        notes=("Written by `data_prep collect` from whale/sim/tabletop.py, which is the source of every fact here.",),
    ),
    DatasetSpec(
        name="bridge_dataset",
        cameras={"image_0": "external", "image_1": "external", "image_2": "external", "image_3": "external"},
        control_period_sec=0.2,
        proprio_key="state",
        action_type=ActionType.EEF_DELTA,
        action_status=(ActionStatus.ACTUATED,) * 7,
        transform=transforms.bridge,
        has_rewards=False,
        source_keys=("file_path",),
        episode_keys=("file_path", "episode_id"),
        success_key=None,
        licence="MIT (the debug excerpt in octo-models/octo); CC BY 4.0 (BridgeData)",
        notes=(
            "5 Hz: LeRobot's openx/configs.yaml. Seen in the data: states move by about one command a step.",
            "State is x, y, z (m), roll, pitch, yaw (rad), gripper, in the frame of the base: POS_EULER in Octo's "
            "oxe_dataset_configs.py; its features.json calls them joint angles, which the values contradict.",
            "Euler angles are taken about the fixed axes x, y, z: the convention of the robot's own code "
            "(transforms3d `sxyz`); at the small turns of one step another order differs in the second order only.",
            "Motion is relabelled from states, as Octo and OpenVLA do; why: transforms.bridge.",
            "Rewards are not used: the excerpt's are 0 everywhere, and its episodes are cut off before their end.",
            "`has_image_*` is false everywhere though image_0 to image_2 hold frames, so it is not read; image_3 is "
            "black: convert looks at the frames themselves.",
        ),
    ),
)

REGISTRY: dict[str, DatasetSpec] = {spec.name: spec for spec in _SPECS}


def spec_of(name: str) -> DatasetSpec:
    """The entry of a dataset.

    Raises:
        UserError: there is none.
    """
    if name not in REGISTRY:
        raise UserError(
            f"the dataset {name!r} has no entry in data_prep/oxe/registry.py",
            f"add one, or convert one of: {', '.join(REGISTRY)}",
        )
    return REGISTRY[name]

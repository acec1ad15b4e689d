"""The datasets this project can read, by their names in Open X-Embodiment."""

from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Motion, Part, PoseSpec
from whale.errors import UserError

_SPECS = (
    DatasetSpec(
        name="tabletop",
        cameras={"image": "external"},
        control_period_sec=0.2,
        action=ActionSpec(
            frame=Frame.BASE, position=Part(key="action", size=3), gripper=Part(key="action", first=6, size=1),
        ),
        proprio=(Part(key="observation/state"),),
        has_rewards=True,
        success="success",
        source_keys=("file_path",),
        episode_keys=("file_path",),
        embodiment="simulated arm",
        licence="Apache-2.0",
        sources=("Written by `data_prep collect` from whale/sim/tabletop.py, which is the source of every fact here.",),
    ),
    DatasetSpec(
        name="bridge_dataset",
        cameras={"image_0": "external", "image_1": "external", "image_2": "external", "image_3": "external"},
        control_period_sec=0.2,
        action=ActionSpec(motion=Motion.REACHED, gripper=Part(key="action", first=6, size=1)),
        pose=PoseSpec(
            position=Part(key="observation/state", size=3), rotation=Part(key="observation/state", first=3, size=3),
        ),
        proprio=(Part(key="observation/state"),),
        source_keys=("file_path",),
        episode_keys=("file_path", "episode_id"),
        embodiment="WidowX 250",
        licence="MIT (the debug excerpt in octo-models/octo); CC BY 4.0 (BridgeData)",
        sources=(
            "5 Hz: LeRobot's openx/configs.yaml. Seen in the data: states move by about one command a step.",
            "State is x, y, z (m), roll, pitch, yaw (rad), gripper, in the frame of the base: POS_EULER in Octo's "
            "oxe_dataset_configs.py; its features.json calls them joint angles, which the values contradict.",
            "Euler angles are taken about the fixed axes x, y, z: the convention of the robot's own code "
            "(transforms3d `sxyz`); at the small turns of one step another order differs in the second order only.",
            "Motion is relabelled from states, as Octo and OpenVLA do: the command lags (a pose is reached over two "
            "periods). It also turns the all-zero command that opens every episode into what it is, an arm at rest, so "
            "no step has to be dropped.",
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

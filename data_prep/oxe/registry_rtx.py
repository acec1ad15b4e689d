"""The sets that RT-X began with: actions are dictionaries (`world_vector`, `rotation_delta`, a gripper)."""

from dataclasses import replace

from whale.clips.clip import ActionType
from whale.data_prep.oxe.registry_facts import (
    CATALOGUE,
    CC_BY,
    COLLECTION,
    CONTROLLER_UNITS,
    INVENTORY,
    KINEMATICS,
    LOADERS,
    MIT,
    RATE,
    REACHED,
    SAID,
    cols,
)
from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Gripper, Motion, PoseSpec, Rotation

WORLD_VECTOR = "`world_vector` and `rotation_delta` are read in the axes of the base, as their names say."

_BRIDGE = DatasetSpec(
    name="bridge_dataset",
    cameras={"image_0": "external", "image_1": "external", "image_2": "external", "image_3": "external"},
    control_period_sec=0.2,
    action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1)),
    pose=PoseSpec(position=cols("observation/state", 0, 3), rotation=cols("observation/state", 3, 3)),
    proprio=(cols("observation/state", 0, 7),),
    source_keys=("file_path",),
    episode_keys=("file_path", "episode_id"),
    embodiment="WidowX 250",
    licence="MIT (the debug excerpt in octo-models/octo); CC BY 4.0 (BridgeData: from memory)",
    sources=(
        "5 Hz: LeRobot's openx/configs.yaml. Seen in the data: states move by about one command a step.",
        "State is x, y, z (m), roll, pitch, yaw (rad), gripper, in the frame of the base: POS_EULER in Octo's "
        "oxe_dataset_configs.py; its features.json calls them joint angles, which the values contradict.",
        "Euler angles are about the fixed axes x, y, z, of the hand's turn from a default orientation, in the axes of "
        "the base; the gripper is 1 when open: the robot's own rail-berkeley/bridge_data_robot, widowx_envs, "
        "utils/transformation_utils.py and base/robot_base_env.py.",
        "Motion is relabelled from states, as Octo and OpenVLA do: the command lags (a pose is reached over two "
        "periods). It also turns the all-zero command that opens every episode into what it is, an arm at rest, so "
        "no step has to be dropped.",
        "The gripper stays continuous: loaders binarise it by looking ahead.",
        "Rewards are not used: the excerpt's are 0 everywhere, and its episodes are cut off before their end.",
        "`has_image_*` is false everywhere though image_0 to image_2 hold frames, so it is not read; image_3 is "
        "black: convert looks at the frames themselves.",
    ),
)
_BRIDGE_OXE = replace(
    _BRIDGE,
    name="bridge",
    cameras={"image": "external"},
    action=ActionSpec(motion=Motion.REACHED, gripper=cols("action/open_gripper", 0, 1)),
    versions=("0.1.0",),
    instruction=SAID,
    source_keys=(),
    episode_keys=(),
    licence=COLLECTION,
    sources=(
        CATALOGUE + " It lists one camera; OpenVLA also names image_1.",
        "The older copy of BridgeData in the Open X-Embodiment bucket, with fewer episodes than bridge_dataset.",
        *_BRIDGE.sources[:4],
    ),
)

_RT1 = DatasetSpec(
    name="fractal20220817_data",
    cameras={"image": "external"},
    control_period_sec=1 / 3,
    action=ActionSpec(
        frame=Frame.BASE, position=cols("action/world_vector", 0, 3), rotation=cols("action/rotation_delta", 0, 3),
        gripper=cols("action/gripper_closedness_action", 0, 1), gripper_rule=Gripper.RELATIVE_CLOSED,
    ),
    pose=PoseSpec(
        position=cols("observation/base_pose_tool_reached", 0, 3),
        rotation=cols("observation/base_pose_tool_reached", 3, 4), rotation_form=Rotation.QUAT_XYZW,
    ),
    proprio=(cols("observation/base_pose_tool_reached", 0, 7), cols("observation/gripper_closed", 0, 1)),
    versions=("0.1.0",),
    instruction=SAID,
    embodiment="Google robot",
    licence=COLLECTION,
    sources=(
        CATALOGUE + " It says: displacement and roll-pitch-yaw, relative to the base; pose as position and quaternion.",
        RATE,
        LOADERS + " The gripper is +1 to close, -1 to open, 0 to leave: made absolute as they do.",
        "Quaternion order x, y, z, w: RDT, and lihzha/lap-thirdparty, src/openpi_cot/dataloader/oxe_utils/"
        "transforms.py. That `rotation_delta` fits R[t+1] R[t]^T is from memory: audit compares them.",
        "The base can drive (`base_displacement_vector`): seven slots have no room for it, and it is left out.",
        "`aspects/success` is a rating that only some episodes have (`has_aspects`): not used as a label.",
    ),
)

SPECS: tuple[DatasetSpec, ...] = (
    _BRIDGE,
    replace(_BRIDGE, name="bridge_orig", sources=(
        "The name that OpenVLA gives to bridge_dataset, downloaded from the project's site; the same files.",
        *_BRIDGE.sources,
    )),
    _BRIDGE_OXE,
    replace(_BRIDGE_OXE, name="bridge_oxe", sources=(
        "The name that OpenVLA gives to `bridge`; the same files.", *_BRIDGE_OXE.sources,
    )),
    _RT1,
    replace(
        _RT1,
        name="kuka",
        control_period_sec=0.1,
        pose=PoseSpec(
            position=cols("observation/clip_function_input/base_pose_tool_reached", 0, 3),
            rotation=cols("observation/clip_function_input/base_pose_tool_reached", 3, 4),
            rotation_form=Rotation.QUAT_XYZW,
        ),
        proprio=(
            cols("observation/clip_function_input/base_pose_tool_reached", 0, 7),
            cols("observation/gripper_closed", 0, 1),
        ),
        success="success",
        only_successes=True,
        embodiment="KUKA iiwa",
        sources=(
            CATALOGUE + " Poses are stored compressed with ZLIB: the readers decode them.",
            "Rate: LeRobot's openx/configs.yaml. HMA says 2 Hz, on purpose, to match its other sets.",
            LOADERS,
            "Only grasps that succeeded (`success`, beside `steps`) are kept: rlds_dataset_mod's filter_success, and "
            "with it everyone who trains on its copy.",
            "Quaternion order x, y, z, w: taken over from fractal20220817_data, of the same lab.",
        ),
    ),
    DatasetSpec(
        name="taco_play",
        cameras={"rgb_static": "external", "rgb_gripper": "wrist"},
        control_period_sec=1 / 15,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action/rel_actions_world", 6, 1)),
        pose=PoseSpec(position=cols("observation/robot_obs", 0, 3), rotation=cols("observation/robot_obs", 3, 3)),
        proprio=(cols("observation/robot_obs", 0, 14),),
        versions=("0.1.0",),
        instruction=SAID,
        embodiment="Franka Panda",
        licence=CC_BY,
        sources=(
            CATALOGUE,
            RATE,
            LOADERS + " They take columns 0 to 5 of `rel_actions_world` for metres and radians.",
            REACHED + "`rel_actions_world` is scaled, 50 for a metre and 20 for a radian, and clipped to -1 to 1: the "
            "makers' ErickRosete/tacorl, dataset/README.md. Lengths of about 0.3 in google-deepmind/open_x_embodiment, "
            "issue 28, agree.",
            "The gripper is -1 or +1 in column 6. The catalogue says -1 is open, and RDT follows it; the makers' "
            "README and both loaders say +1 is open, which is followed.",
            "Euler angles x, y, z in the axes of the world (that README, and dataset/README.md of mees/calvin), taken "
            "about fixed axes: PyBullet's, from memory.",
            "Column 7 of `robot_obs` is the first joint; both loaders take it for the gripper, which is column 6.",
        ),
    ),
    DatasetSpec(
        name="jaco_play",
        cameras={"image": "external", "image_wrist": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(
            motion=Motion.REACHED, gripper=cols("action/gripper_closedness_action", 0, 1),
            gripper_rule=Gripper.RELATIVE_CLOSED,
        ),
        pose=PoseSpec(position=cols("observation/end_effector_cartesian_pos", 0, 3)),
        proprio=(cols("observation/end_effector_cartesian_pos", 0, 7), cols("observation/joint_pos", 0, 8)),
        versions=("0.1.0",),
        instruction=SAID,
        embodiment="Kinova Jaco 2",
        licence=CC_BY,
        sources=(
            CATALOGUE,
            RATE,
            LOADERS,
            REACHED + "`world_vector` has no unit, though the loaders take it for metres.",
            "Seven columns of pose are position and quaternion: clvrai/clvr_jaco_play_dataset, README, and RDT; the "
            "loaders read them as Euler angles and a gripper. The order of the quaternion is not published. The "
            "command moves the hand and does not turn it (the README): rotation is fixed.",
        ),
    ),
    DatasetSpec(
        name="berkeley_cable_routing",
        cameras={"image": "external", "top_image": "external", "wrist45_image": "wrist", "wrist225_image": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(
            motion=Motion.VELOCITY, position=cols("action/world_vector", 0, 3),
            rotation=cols("action/rotation_delta", 0, 3), rotation_form=Rotation.ROTVEC,
        ),
        proprio=(cols("observation/robot_state", 0, 7),),
        versions=("0.1.0",),
        instruction=SAID,
        embodiment="Franka Panda",
        licence=CC_BY,
        sources=(
            CATALOGUE + " It says velocity in x, y, z, and angular velocity about z: per second, times the period. The "
            "loaders take them for differences.",
            RATE,
            "That velocities are metres and radians per second is assumed; RDT reads them so too.",
            "Seven columns of `robot_state` are position and quaternion for RDT, joints for Octo: no pose is taken "
            "from them.",
            "The gripper holds the cable all along: fixed. No gripper is recorded (the catalogue); the rest is from "
            "memory.",
        ),
    ),
    DatasetSpec(
        name="roboturk",
        cameras={"front_rgb": "external"},
        control_period_sec=0.1,
        action=ActionSpec(
            position=cols("action/world_vector", 0, 3), rotation=cols("action/rotation_delta", 0, 3),
            gripper=cols("action/gripper_closedness_action", 0, 1), gripper_rule=Gripper.CLOSED,
        ),
        versions=("0.1.0",),
        instruction=SAID,
        embodiment="Sawyer",
        licence=MIT,
        sources=(
            CATALOGUE, RATE, LOADERS,
            "No proprioception is recorded. " + WORLD_VECTOR + " Metres and radians are assumed, as the loaders do.",
        ),
    ),
    DatasetSpec(
        name="nyu_door_opening_surprising_effectiveness",
        cameras={"image": "wrist"},
        control_period_sec=1 / 3,
        action=ActionSpec(
            position=cols("action/world_vector", 0, 3), rotation=cols("action/rotation_delta", 0, 3),
            gripper=cols("action/gripper_closedness_action", 0, 1), gripper_rule=Gripper.CLOSED,
        ),
        versions=("0.1.0",),
        instruction=SAID,
        embodiment="Hello Robot Stretch",
        licence=MIT,
        sources=(
            CATALOGUE + " It says velocities. RDT multiplies by the rate to get velocities, and the loaders take them "
            "for differences: differences they are here.",
            RATE,
            "The gripper runs from about -0.3, open, to 1, closed (RDT): absolute. The loaders take it for relative.",
            "The camera is in the hand. The axes are not published.",
        ),
    ),
    DatasetSpec(
        name="viola",
        cameras={"agentview_rgb": "external", "eye_in_hand_rgb": "wrist"},
        control_period_sec=0.05,
        action=ActionSpec(
            motion=Motion.REACHED, gripper=cols("action/gripper_closedness_action", 0, 1), gripper_rule=Gripper.CLOSED,
        ),
        pose=PoseSpec(joints=cols("observation/joint_states", 0, 7), arm="panda"),
        proprio=(cols("observation/joint_states", 0, 7), cols("observation/gripper_states", 0, 1)),
        versions=("0.1.0",),
        instruction=SAID,
        embodiment="Franka Panda",
        licence=MIT,
        sources=(CATALOGUE, RATE, LOADERS, KINEMATICS + CONTROLLER_UNITS),
    ),
    DatasetSpec(
        name="berkeley_autolab_ur5",
        cameras={"image": "external", "hand_image": "wrist"},
        control_period_sec=0.2,
        action=ActionSpec(
            frame=Frame.BASE, position=cols("action/world_vector", 0, 3), rotation=cols("action/rotation_delta", 0, 3),
            gripper=cols("action/gripper_closedness_action", 0, 1), gripper_rule=Gripper.RELATIVE_CLOSED,
        ),
        pose=PoseSpec(
            position=cols("observation/robot_state", 6, 3), rotation=cols("observation/robot_state", 9, 4),
            rotation_form=Rotation.QUAT_XYZW,
        ),
        proprio=(cols("observation/robot_state", 6, 8),),
        versions=("0.1.0",),
        bgr=("hand_image",),
        instruction=SAID,
        embodiment="UR5",
        licence=CC_BY,
        sources=(
            CATALOGUE + " It says: change in x, y, z and in roll, pitch, yaw; 1 closes, -1 opens, 0 changes nothing.",
            RATE,
            LOADERS + " " + WORLD_VECTOR,
            "`robot_state` is 6 joints, x, y, z, quaternion x, y, z, w, gripper closed, blocked: RDT.",
            "hand_image is stored as BGR: rlds_dataset_mod's prepare_open_x.sh.",
        ),
    ),
    DatasetSpec(
        name="toto",
        cameras={"image": "external"},
        control_period_sec=1 / 30,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action/open_gripper", 0, 1)),
        pose=PoseSpec(joints=cols("observation/state", 0, 7), arm="panda"),
        proprio=(cols("observation/state", 0, 7),),
        versions=("0.1.0",),
        instruction=SAID,
        embodiment="Franka Panda",
        licence=MIT,
        sources=(
            CATALOGUE + " State is seven absolute joint angles.",
            RATE,
            LOADERS,
            KINEMATICS + "the makers' actions are absolute joint angles (AGI-Labs/toto_benchmark, assets/README.md); "
            "whether the `world_vector` made of them is a pose or a difference is not published.",
        ),
    ),
    DatasetSpec(
        name="language_table",
        cameras={"rgb": "external"},
        control_period_sec=0.1,
        action=ActionSpec(frame=Frame.BASE, position=cols("action", 0, 2)),
        pose=PoseSpec(position=cols("observation/effector_translation", 0, 2)),
        proprio=(cols("observation/effector_translation", 0, 2),),
        versions=("0.0.1", "0.1.0"),
        action_type=ActionType.PLANAR,
        instruction="observation/instruction",
        embodiment="xArm 6 with a stick",
        licence=COLLECTION,
        sources=(
            "Features: tensorflow/datasets, robotics/language_table, features.json of 0.0.1 (a difference of the "
            "setpoint in the plane; the instruction as bytes of UTF-8 padded with zeros); " + INVENTORY + " lists the "
            "same keys at 0.1.0.",
            "Metres: the simulated environment of the makers steps by 0.1 at most, in positions of its table "
            "(google-research/language-table, language_table/environments/language_table.py); of the real one it is "
            "assumed.",
            "Rate: control_frequency there, and LeRobot's openx/configs.yaml. HMA says 2 Hz, on purpose, to match its "
            "other sets.",
            "Versions: iVideoGPT and RDT read 0.0.1, rlds_dataset_mod 0.1.0.",
            "A stick cannot grasp, turn or leave the plane: those are fixed. Loaders say an open gripper.",
        ),
    ),
    DatasetSpec(
        name="columbia_cairlab_pusht_real",
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(frame=Frame.BASE, position=cols("action/world_vector", 0, 2)),
        pose=PoseSpec(position=cols("observation/robot_state", 0, 2)),
        proprio=(cols("observation/robot_state", 0, 2),),
        versions=("0.1.0",),
        action_type=ActionType.PLANAR,
        instruction=SAID,
        embodiment="UR5 with a stick",
        licence=MIT,
        sources=(
            CATALOGUE + " It says: change in x, y, z; the state is the x and y of the end effector.",
            RATE,
            "It pushes in the plane: height, rotation and gripper are fixed. OpenVLA keeps a gripper that nothing "
            "moves.",
        ),
    ),
    DatasetSpec(
        name="bc_z",
        cameras={"image": "external"},
        control_period_sec=0.1,
        action=ActionSpec(
            motion=Motion.REACHED, gripper=cols("action/future/target_close", 0, 1), gripper_rule=Gripper.CLOSED,
        ),
        pose=PoseSpec(
            position=cols("observation/present/xyz", 0, 3), rotation=cols("observation/present/axis_angle", 0, 3),
            rotation_form=Rotation.ROTVEC,
        ),
        proprio=(
            cols("observation/present/xyz", 0, 3), cols("observation/present/axis_angle", 0, 3),
            cols("observation/present/sensed_close", 0, 1),
        ),
        versions=("0.1.0",),
        instruction=SAID,
        success="observation/episode_success",
        embodiment="Google robot",
        licence=COLLECTION,
        sources=(
            CATALOGUE + " Later versions are said to be broken (OpenVLA, mixtures.py).",
            RATE,
            LOADERS + " Their motion is the first of ten future residuals, its axis-angle put where Euler angles "
            "belong.",
            REACHED + "a residual is added to an axis-angle, which is no rotation. That the first one fits the pose "
            "five to seven steps ahead is from memory, not checked; lihzha/lap-thirdparty takes reached motion too.",
        ),
    ),
    DatasetSpec(
        name="robo_net",
        cameras={"image": "external", "image1": "external", "image2": "external"},
        control_period_sec=1.0,
        action=ActionSpec(
            frame=Frame.BASE, position=cols("action", 0, 3), rotation=cols("action", 3, 1), rotation_form=Rotation.YAW,
            gripper=cols("action", 4, 1), gripper_rule=Gripper.SIGNED_CLOSED,
        ),
        proprio=(cols("observation/state", 0, 5),),
        versions=("0.1.0", "1.0.0"),
        embodiment="seven arms: Sawyer, WidowX, Franka, KUKA, Baxter, Fetch, R3",
        licence=COLLECTION,
        sources=(
            "Five columns, differences of position, yaw and a gripper: the TFDS catalogue of `robonet`.",
            "Versions: the bucket's listing has 0.1.0 (" + INVENTORY + ", which gives the keys), the converters of "
            "iVideoGPT and RDT read 1.0.0. 1 Hz is nominal (LeRobot, HMA, RDT). Metres are assumed.",
            "States are normalised to the workspace of each robot: no pose is taken from them.",
            "The gripper: RDT reads -1 open to 1 closed; the loaders pass it on. Roll and pitch are fixed.",
        ),
    ),
)

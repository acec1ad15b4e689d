"""Sets of other arms, of robots that drive, and those that cannot be converted."""

from dataclasses import replace

from whale.clips.clip import ActionType
from whale.data_prep.oxe.registry_facts import (
    CATALOGUE,
    CC_BY,
    COLLECTION,
    DATASET_TO_RLDS,
    LOADERS,
    MIT,
    RATE,
    REACHED,
    SHORT_OF_COMMAND,
    TO_RLDS,
    cols,
)
from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Gripper, Motion, PoseSpec, Rotation

_STATE_POSE = PoseSpec(position=cols("observation/state", 0, 3), rotation=cols("observation/state", 3, 3))
_ZXY = (
    "Euler angles of SciPy's `zxy`, about fixed axes: the catalogue says so, and so do the makers' scripts, "
    "DLR-RM/rlds_dataset_builder. The loaders take them for roll, pitch and yaw. Metres are assumed.")

_PR2 = DatasetSpec(
    name="utokyo_pr2_opening_fridge" + TO_RLDS,
    cameras={"image": "external"},
    control_period_sec=0.1,
    action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1)),
    pose=replace(_STATE_POSE, metres=0.001),
    proprio=(cols("observation/state", 0, 7),),
    versions=("0.1.0",),
    embodiment="PR2",
    licence=MIT,
    sources=(
        CATALOGUE,
        RATE,
        LOADERS + " They pass the gripper on, 1 open; RDT inverts it.",
        REACHED + SHORT_OF_COMMAND,
        "Positions are millimetres: RDT divides those of both PR2 sets, recorded and commanded, by 1000. The "
        "catalogue names no unit, and the loaders pass them on.",
    ),
)
_GNM = DatasetSpec(
    name="berkeley_gnm_recon",
    cameras={"image": "ego"},
    control_period_sec=1 / 3,
    action=ActionSpec(motion=Motion.REACHED, frame=Frame.TOOL),
    pose=PoseSpec(
        position=cols("observation/position", 0, 2), rotation=cols("observation/yaw", 0, 1), rotation_form=Rotation.YAW,
    ),
    proprio=(cols("observation/state", 0, 3),),
    versions=("0.1.0",),
    action_type=ActionType.PLANAR,
    embodiment="Clearpath Jackal",
    licence=MIT,
    sources=(
        CATALOGUE,
        RATE,
        REACHED + "waypoints are scaled by a spacing of each dataset (Octo's gnm transform). Told in the robot's own "
        "axes: the camera drives with it, and where odometry started means nothing.",
        "It moves in the plane and has no gripper: those are fixed.",
        "Metres: robodhruv/visualnav-transformer, train/vint_train/data/data_config.yaml, tells the makers' spacing of "
        "waypoints in metres. RDT divides the positions of recon and sac_son by 100, and says no reason: audit's.",
    ),
)

SPECS: tuple[DatasetSpec, ...] = (
    DatasetSpec(
        name="stanford_kuka_multimodal" + DATASET_TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=0.05,
        action=ActionSpec(motion=Motion.REACHED, absent="unknown"),
        pose=PoseSpec(position=cols("observation/ee_position", 0, 3)),
        proprio=(cols("observation/ee_position", 0, 3), cols("observation/ee_orientation", 0, 4)),
        versions=("0.1.0",),
        embodiment="KUKA iiwa",
        licence=MIT,
        sources=(
            CATALOGUE,
            RATE,
            REACHED + SHORT_OF_COMMAND,
            "The fourth command is said to be a gripper, but runs from -0.15 to 0.15 (RDT): a peg is held, and that "
            "may be a turn. Rotation and gripper are unknown; the order of the orientation's quaternion is not "
            "published.",
        ),
    ),
    DatasetSpec(
        name="nyu_rot" + DATASET_TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=1 / 3,
        action=ActionSpec(
            position=cols("action", 0, 3), rotation=cols("action", 3, 3), gripper=cols("observation/state", 6, 1),
            gripper_rule=Gripper.CLOSED,
        ),
        pose=PoseSpec(position=cols("observation/state", 0, 3)),
        proprio=(cols("observation/state", 0, 7),),
        versions=("0.1.0",),
        embodiment="xArm 7",
        licence=MIT,
        sources=(
            CATALOGUE + " It says 0 open, 1 closed; the loaders pass the gripper on as if 1 were open.",
            RATE,
            "The makers' siddhanthaldar/rlds_dataset_builder, rot/create_rot_dataset.py: the commanded gripper is 0 "
            "throughout and the state's is true, so that is taken; it never moves in an episode. Angles of the state "
            "are twice what they should be, so no orientation is taken from them.",
            "Neither unit nor axes are published (that file clips positions and commands to -1 and 1): metres and the "
            "base are assumed, as the loaders do; audit compares with the states.",
        ),
    ),
    DatasetSpec(
        name="ucsd_kitchen" + DATASET_TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=0.5,
        action=ActionSpec(
            motion=Motion.PATH, position=cols("action", 0, 3), rotation=cols("action", 3, 3), metres=0.001,
            radians=0.017453292519943295, gripper=cols("action", 6, 1),
        ),
        proprio=(cols("observation/state", 0, 21),),
        versions=("0.1.0",),
        embodiment="xArm 7",
        licence=MIT,
        sources=(
            CATALOGUE + " It says position and orientation of the end effector.",
            RATE,
            LOADERS + " They take it for a difference.",
            "Absolute, in the arm's own millimetres and degrees: from memory of the statistics of openvla-7b (hundreds "
            "and tens on average), not checked. Differences of consecutive actions, as here, are a comment in "
            "lihzha/lap-thirdparty, src/openpi_cot/dataloader/oxe_utils/transforms.py. Joints are recorded, but no "
            "pose.",
            "The gripper: the loaders pass it on, 1 open; RDT inverts it.",
        ),
    ),
    DatasetSpec(
        name="ucsd_pick_and_place" + DATASET_TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=1 / 3,
        action=ActionSpec(
            motion=Motion.REACHED, gripper=cols("observation/state", 6, 1), gripper_next=True,
            gripper_rule=Gripper.WIDTH, gripper_range=6.03,
        ),
        pose=PoseSpec(position=cols("observation/state", 0, 3), metres=0.1),
        proprio=(cols("observation/state", 0, 7),),
        versions=("0.1.0",),
        has_rewards=True,
        success="success",
        embodiment="xArm 7",
        licence=MIT,
        sources=(
            CATALOGUE + " It says velocities and a torque of the gripper; rewards and success are labelled, some by a "
            "classifier.",
            RATE,
            REACHED + "positions are decimetres, and the fingers 6.03 apart when open (RDT's scales; the makers' "
            "nicklashansen/rlds_dataset_builder, ucsd_pick_and_place/ucsd_pick_and_place_dataset_builder.py, divides "
            "the arm's numbers by 100); the command's unit is not published. The hand does not turn (no rotation is "
            "commanded): fixed.",
            "That builder sets `is_last` and `is_terminal` at some step in the middle: they mean nothing.",
            "The gripper is the measured distance at the next step: a torque is no state, and its sign is not "
            "published.",
        ),
    ),
    _PR2,
    replace(_PR2, name="utokyo_pr2_tabletop_manipulation" + TO_RLDS),
    DatasetSpec(
        name="utokyo_xarm_pick_and_place" + TO_RLDS,
        cameras={"image": "external", "image2": "external", "hand_image": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(
            position=cols("observation/end_effector_pose", 0, 3), rotation=cols("observation/end_effector_pose", 3, 3),
            rotation_form=Rotation.EULER_ZYX,
        ),
        proprio=(cols("observation/end_effector_pose", 0, 6), cols("observation/joint_state", 0, 7)),
        versions=("0.1.0",),
        embodiment="xArm 7",
        licence=CC_BY,
        sources=(
            CATALOGUE + " It says position, then yaw, pitch, roll: RDT reorders them, the loaders do not.",
            RATE,
            "The gripper is the trigger of a controller in the operator's hand (the makers' frt03/"
            "rlds_dataset_builder, xarm_pick_and_place_dataset/_misc/torch2pickle.py), taken to close when pulled, as "
            "RDT does. Those who replayed the set found it pulled between picking and placing (GuanhuaJi/"
            "rovi-aug-extension-robosuite, rendering/config/processing_utils.py, and statistics of its output). The "
            "loaders pass it on, 1 open. Metres are assumed, as RDT does.",
            REACHED + "the commanded pose is that of the operator's controller (the same file).",
            "Their builder sets `is_last` and `is_terminal` at some step in the middle: they mean nothing.",
        ),
    ),
    DatasetSpec(
        name="utokyo_xarm_bimanual" + TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=0.1,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 13, 1)),
        pose=PoseSpec(
            position=cols("observation/pose_r", 0, 3), rotation=cols("observation/pose_r", 3, 3),
            rotation_form=Rotation.EULER_ZYX,
        ),
        proprio=(cols("observation/pose_l", 0, 6), cols("observation/pose_r", 0, 6)),
        versions=("0.1.0",),
        embodiment="two xArm 7",
        licence=CC_BY,
        sources=(
            CATALOGUE + " It says position, then yaw, pitch, roll of the left arm, then of the right.",
            RATE,
            "The right arm alone, as in the loaders: seven slots have no room for the left one, which moves too. They "
            "pass its gripper on, 1 open; RDT inverts it.",
            REACHED + SHORT_OF_COMMAND,
        ),
    ),
    DatasetSpec(
        name="berkeley_mvp" + TO_RLDS,
        cameras={"hand_image": "wrist"},
        control_period_sec=0.2,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 7, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(
            position=cols("observation/pose", 0, 3), rotation=cols("observation/pose", 3, 4),
            rotation_form=Rotation.QUAT_XYZW,
        ),
        proprio=(
            cols("observation/pose", 0, 7), cols("observation/joint_pos", 0, 7), cols("observation/gripper", 0, 1),
        ),
        versions=("0.1.0",),
        embodiment="xArm 7",
        licence=MIT,
        sources=(
            CATALOGUE + " It says: differences of 7 joints and a gripper; the pose of the gripper in the frame of the "
            "robot.",
            RATE,
            REACHED + "joints are commanded, and the command is the next step's joints. Quaternion order x, y, z, w "
            "(SciPy's), in the frame of the base, and a gripper that is the next step's: the makers' "
            "ir413/rlds_dataset_builder, mvp_dataset/mvp_dataset_dataset_builder.py.",
            "The gripper is 1 when closed: the catalogue of the state, and Octo, which inverts the command.",
        ),
    ),
    DatasetSpec(
        name="stanford_mask_vit" + TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=1.0,
        action=ActionSpec(
            frame=Frame.BASE, position=cols("action", 0, 3), rotation=cols("action", 3, 1), rotation_form=Rotation.YAW,
            gripper=cols("action", 4, 1), gripper_rule=Gripper.SIGNED_CLOSED,
        ),
        proprio=(cols("observation/end_effector_pose", 0, 5),),
        versions=("0.1.0",),
        embodiment="Sawyer",
        licence=COLLECTION,
        sources=(
            CATALOGUE + " It says: change of position, yaw, gripper -1 open to 1 closed; roll and pitch are fixed.",
            "No rate is published (LeRobot and RDT leave it out): 1 Hz is nominal, as for robo_net, whose setup it "
            "copies. Metres and the base's axes are assumed.",
            "Poses are normalised by bounds that are recorded beside them: none is taken.",
        ),
    ),
    replace(
        _PR2,
        name="tokyo_u_lsmo" + TO_RLDS,
        pose=_STATE_POSE,
        proprio=(cols("observation/state", 0, 13),),
        embodiment="Cobotta",
        sources=(
            CATALOGUE, RATE, LOADERS + " They pass the gripper on, 1 open; RDT inverts it.", REACHED + SHORT_OF_COMMAND,
        ),
    ),
    DatasetSpec(
        name="dlr_sara_pour" + TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=0.1,
        action=ActionSpec(motion=Motion.REACHED, absent="unknown"),
        pose=replace(_STATE_POSE, rotation_form=Rotation.EULER_ZXY),
        proprio=(cols("observation/state", 0, 6),),
        versions=("0.1.0",),
        embodiment="DLR SARA",
        licence=MIT,
        sources=(
            CATALOGUE, RATE, _ZXY, REACHED + SHORT_OF_COMMAND,
            "The catalogue describes six of the seven columns of an action: the gripper is unknown.",
        ),
    ),
    DatasetSpec(
        name="dlr_sara_grid_clamp" + TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=0.1,
        action=ActionSpec(motion=Motion.REACHED, absent="unknown"),
        pose=replace(_STATE_POSE, rotation_form=Rotation.EULER_ZXY),
        proprio=(cols("observation/state", 0, 12),),
        versions=("0.1.0",),
        embodiment="DLR SARA",
        licence=MIT,
        sources=(
            CATALOGUE, RATE, _ZXY, REACHED + SHORT_OF_COMMAND,
            "The catalogue describes six of the seven columns of an action: the gripper is unknown.",
        ),
    ),
    DatasetSpec(
        name="dlr_edan_shared_control" + TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=0.2,
        action=ActionSpec(
            motion=Motion.REACHED, gripper=cols("observation/state", 6, 1), gripper_next=True,
            gripper_rule=Gripper.CLOSED,
        ),
        pose=replace(_STATE_POSE, rotation_form=Rotation.EULER_ZXY),
        proprio=(cols("observation/state", 0, 7),),
        versions=("0.1.0",),
        embodiment="DLR EDAN",
        licence=MIT,
        sources=(
            CATALOGUE, RATE, _ZXY, REACHED + SHORT_OF_COMMAND,
            "The gripper is 0 open, 1 closed: RDT, who watched it; both loaders invert it. The commanded one repeats "
            "the state of the same step (the makers' DLR-RM/rlds_dataset_builder, dlr_edan_sharedcontrol/"
            "dlr_edan_sharedcontrol_dataset_builder.py), so the next step's is taken.",
        ),
    ),
    DatasetSpec(
        name="asu_table_top" + TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=0.08,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1)),
        pose=PoseSpec(position=cols("ground_truth_states/EE", 0, 3), rotation=cols("ground_truth_states/EE", 3, 3)),
        proprio=(cols("observation/state", 0, 7), cols("ground_truth_states/EE", 0, 6)),
        versions=("0.1.0",),
        embodiment="simulated UR5",
        licence=MIT,
        sources=(
            CATALOGUE + " Its text of the action is a template's. The pose lies outside the observation.",
            "12.5 Hz: LeRobot's openx/configs.yaml; HMA says 12.",
            LOADERS + " They pass the gripper on, 1 open: nobody says so in words.",
            REACHED + SHORT_OF_COMMAND,
        ),
    ),
    DatasetSpec(
        name="imperialcollege_sawyer_wrist_cam",
        cameras={"image": "wrist", "wrist_image": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(
            frame=Frame.TOOL, position=cols("action", 0, 3), rotation=cols("action", 3, 3),
            rotation_form=Rotation.EULER_ZYX, gripper=cols("action", 6, 1),
        ),
        proprio=(cols("observation/state", 0, 1),),
        versions=("0.1.0",),
        embodiment="Sawyer",
        licence=MIT,
        sources=(
            CATALOGUE + " It says: change of position in the frame of the end effector, change of ZYX Euler angles, "
            "gripper, terminate; and that `image` is the wrist's too.",
            RATE,
            LOADERS + " They take tool axes for the base's. No pose is recorded: canonical motion stays in the tool's "
            "axes.",
            "The gripper: the loaders pass it on, 1 open; RDT inverts it. The catalogue does not say.",
        ),
    ),
    DatasetSpec(
        name="uiuc_d3field",
        cameras={f"image_{k}": "external" for k in (1, 2, 3, 4)},
        control_period_sec=1.0,
        action=ActionSpec(absent="unknown"),
        proprio=(cols("observation/state", 0, 16),),
        versions=("0.1.0",),
        embodiment="Kinova Gen3",
        licence=MIT,
        sources=(
            CATALOGUE + " It says: displacement from the last frame. That frame is of the camera, of which only every "
            "tenth became a step: a tenth of a step that is past (the makers' WangYixuan12/rlds_dataset_builder, "
            "uiuc_d3field/uiuc_d3field_dataset_builder.py). The loaders take it for the coming step; here motion is "
            "unknown. A pose is recorded, as a matrix, which this record has no form for.",
            "1 Hz: the makers' builder, LeRobot and HMA.",
            "Octo and OpenVLA leave the set out: its raw data are said to be broken.",
            "The gripper is not recorded: unknown.",
        ),
    ),
    DatasetSpec(
        name="berkeley_fanuc_manipulation",
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(
            frame=Frame.BASE, position=cols("action", 0, 3), rotation=cols("action", 3, 3),
            gripper=cols("observation/state", 6, 1), gripper_next=True, gripper_rule=Gripper.CLOSED,
        ),
        pose=PoseSpec(
            position=cols("observation/end_effector_state", 0, 3),
            rotation=cols("observation/end_effector_state", 3, 4), rotation_form=Rotation.QUAT_XYZW,
        ),
        proprio=(cols("observation/end_effector_state", 0, 7), cols("observation/state", 0, 7)),
        versions=("0.1.0",),
        bgr=("image", "wrist_image"),
        embodiment="FANUC Mate 200iD",
        licence=MIT,
        sources=(
            CATALOGUE + " It says: change of position and of roll, pitch, yaw; pose as position and quaternion.",
            RATE,
            LOADERS + " No gripper is commanded: they take the state's and invert it, though the catalogue says `open "
            "status`. Here the next step's, for the present one says nothing of the action.",
            "Both cameras are stored as BGR: rlds_dataset_mod's prepare_open_x.sh.",
            "Quaternion order x, y, z, w: RDT; the loaders do not read the pose. That commands are told in the axes of "
            "the base is assumed, as the loaders do.",
        ),
    ),
    DatasetSpec(
        name="cmu_stretch",
        cameras={"image": "external"},
        control_period_sec=0.1,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), absent="unknown"),
        pose=PoseSpec(position=cols("observation/state", 0, 3)),
        proprio=(cols("observation/state", 0, 4),),
        versions=("0.1.0",),
        embodiment="Hello Robot Stretch",
        licence=MIT,
        sources=(
            CATALOGUE + " State is three numbers, of joints or of the position (it says both), and the gripper; RDT "
            "takes the first and the third for x and z. Read as a position, unchecked.",
            RATE,
            LOADERS,
            REACHED + SHORT_OF_COMMAND + " No orientation is measured: rotation is unknown.",
        ),
    ),
    _GNM,
    replace(_GNM, name="berkeley_gnm_cory_hall", control_period_sec=0.2, embodiment="RC car"),
    replace(_GNM, name="berkeley_gnm_sac_son", control_period_sec=0.1, embodiment="Roomba base"),
    DatasetSpec(
        name="dobbe",
        cameras={"wrist_image": "wrist"},
        control_period_sec=1 / 3.75,
        action=ActionSpec(motion=Motion.REACHED, frame=Frame.TOOL, gripper=cols("action", 6, 1)),
        pose=PoseSpec(
            position=cols("observation/xyz", 0, 3), rotation=cols("observation/quat", 0, 4),
            rotation_form=Rotation.QUAT_XYZW,
        ),
        proprio=(cols("observation/state", 0, 7),),
        versions=("0.0.1", "0.1.0"),
        embodiment="a stick with a gripper, held by a person",
        licence=COLLECTION,
        sources=(
            CATALOGUE,
            "3.75 Hz: LeRobot's openx/configs.yaml; RDT says 30 Hz, that of the camera.",
            LOADERS,
            REACHED + "poses are those of a telephone that finds its own way: they start anywhere, so motion is told "
            "in the camera's own axes. They jump at times (RDT): audit counts it. Quaternion order x, y, z, w, and a "
            "gripper that is the next step's: the makers' SudeepDasari/dobbe_rlds_dataset_builder, "
            "dobbe/dobbe_dataset_builder.py.",
        ),
    ),
    DatasetSpec(
        name="rh20t",
        cameras={"image_front": "external", "image_side_right": "external", "image_wrist": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action/gripper", 0, 1)),
        pose=PoseSpec(position=cols("observation/tcp_base", 0, 3), rotation=cols("observation/tcp_base", 3, 3)),
        proprio=(cols("observation/tcp_base"), cols("observation/gripper_width", 0, 1)),
        embodiment="Flexiv, UR5, Franka, KUKA",
        licence="CC BY-SA 4.0 and CC BY-NC 4.0, by part (from memory of RH20T's site; to be checked)",
        sources=(
            "Features: kpertsch/rh20t_dataset_converter, rh20t/rh20t_dataset_builder.py and utils.py (position, and "
            "roll, pitch, yaw by transforms3d, about fixed axes, in the frame of the base). It names its cameras "
            "image_0 to image_2; the names here are those of OpenVLA's rlds/oxe/configs.py, for a conversion that "
            "nobody distributes.",
            "10 Hz: RDT's dataset_control_freq.json. Metres are assumed.",
            REACHED + "the converter's action is a difference of Euler angles, which is no rotation, and OpenVLA's "
            "transforms.py does not say what its own is.",
            "The gripper is 1 to open and 0 to close: the converter compares its width with the next step's.",
        ),
    ),
    *(
        DatasetSpec(
            name=name,
            cameras={"cam_high": "external", "cam_left_wrist": "wrist", "cam_right_wrist": "wrist"},
            control_period_sec=0.02,
            action=ActionSpec(),
            embodiment="two ViperX 300",
            licence=MIT,
            unusable="two arms of six joints and two grippers are commanded at once; an action has seven slots",
            sources=(
                "50 Hz, 14 joint targets: Octo's transforms and RDT's dataset_control_freq.json.",
                "The licence is that of LeRobot's copies of the static and the mobile data.",
            ),
        )
        for name in ("aloha_static_dataset", "aloha_mobile_dataset", "aloha_dagger_dataset", "aloha_mobile")
    ),
    replace(
        _GNM,
        name="gnm_dataset",
        versions=(),
        unusable="it mixes robots of several rates and scales, which only its file names tell apart; take "
        "berkeley_gnm_*",
        sources=("Octo's own merge of navigation data: METRIC_WAYPOINT_SPACING in its transforms.",),
    ),
)

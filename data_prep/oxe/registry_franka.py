"""Sets of Franka arms, most of them by forward kinematics of the recorded joints."""

from whale.data_prep.oxe.registry_facts import (
    CATALOGUE,
    CC_BY,
    COLLECTION,
    CONTROLLER_UNITS,
    DATASET_TO_RLDS,
    INVENTORY,
    KINEMATICS,
    LOADERS,
    MIT,
    RATE,
    REACHED,
    TO_RLDS,
    cols,
)
from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Gripper, Motion, PoseSpec, Rotation

SPECS: tuple[DatasetSpec, ...] = (
    DatasetSpec(
        name="stanford_hydra" + DATASET_TO_RLDS,
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(joints=cols("observation/state", 10, 7), arm="panda"),
        proprio=(cols("observation/state", 0, 17), cols("observation/state", 24, 3)),
        versions=("0.1.0",),
        bgr=("image", "wrist_image"),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(
            CATALOGUE + " It says: change of position and of Euler angles, and closing. State is position, "
            "quaternion, Euler angles, joints, their velocities and three numbers of the gripper.",
            RATE,
            LOADERS,
            "Both cameras are stored as BGR: rlds_dataset_mod's prepare_open_x.sh.",
            KINEMATICS + "its unit and its axes are not published. Commands below 3 cm a step, in the statistics of "
            "openvla-7b, are from memory.",
        ),
    ),
    DatasetSpec(
        name="austin_buds" + DATASET_TO_RLDS,
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.05,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(joints=cols("observation/state", 0, 7), arm="panda"),
        proprio=(cols("observation/state", 0, 8),),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(CATALOGUE, RATE, LOADERS, KINEMATICS + CONTROLLER_UNITS),
    ),
    DatasetSpec(
        name="nyu_franka_play" + DATASET_TO_RLDS,
        cameras={"image": "external", "image_additional_view": "external"},
        control_period_sec=1 / 3,
        action=ActionSpec(
            motion=Motion.REACHED, gripper=cols("action", 13, 1), gripper_rule=Gripper.SIGNED_OPEN,
        ),
        pose=PoseSpec(joints=cols("observation/state", 0, 7), arm="panda"),
        proprio=(cols("observation/state", 0, 13),),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(
            CATALOGUE + " It says: 7 joint velocities, change of position, change of roll, pitch, yaw, gripper, "
            "terminate; state is 7 joints, position, roll, pitch, yaw.",
            RATE,
            LOADERS,
            "The gripper is -1 to close and 1 to open: the makers' builder, jeffacce/rlds_dataset_builder, "
            "nyu_franka_play_dataset/nyu_franka_play_dataset.py. The loaders clip it to 0 and 1.",
            KINEMATICS + "by the README beside that builder it is the difference to the next state, of roll, pitch and "
            "yaw number by number, which is no rotation. Frames in which nothing moved were dropped, it says: time has "
            "gaps.",
        ),
    ),
    DatasetSpec(
        name="maniskill" + DATASET_TO_RLDS,
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.05,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), gripper_rule=Gripper.SIGNED_OPEN),
        pose=PoseSpec(
            position=cols("observation/tcp_pose", 0, 3), rotation=cols("observation/tcp_pose", 3, 4),
            rotation_form=Rotation.QUAT_WXYZ,
        ),
        proprio=(cols("observation/tcp_pose", 0, 7), cols("observation/state", 0, 9)),
        versions=("0.1.0",),
        embodiment="simulated Franka Panda",
        licence=COLLECTION,
        sources=(
            CATALOGUE + " It says: pose of the tool as position and quaternion w, x, y, z; gripper -1 closed to 1 "
            "open.",
            RATE,
            REACHED + "commands are in tenths of a metre and of a radian, as axis-angle (the catalogue), in the axes "
            "of the base and from the last target, not the pose (the controller that the makers' xuanlinli17/"
            "rlds_dataset_builder, mani_skill2/mani_skill2_dataset_builder.py, names). The loaders pass the numbers on "
            "as metres and Euler angles.",
            "Poses are in the axes of the world, with the pose of the base beside them (the catalogue): that the base "
            "is not turned in it is assumed.",
        ),
    ),
    DatasetSpec(
        name="furniture_bench" + DATASET_TO_RLDS,
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 7, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(
            position=cols("observation/state", 0, 3), rotation=cols("observation/state", 3, 4),
            rotation_form=Rotation.QUAT_XYZW,
        ),
        proprio=(cols("observation/state", 0, 35),),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=COLLECTION,
        sources=(
            "Features and version: a listing of the bucket's dataset_info.json (" + INVENTORY + ").",
            "State is position, quaternion x, y, z, w, velocities, 7 joints, their velocities and torques, gripper "
            "width: the makers' clvrai/furniture-bench, furniture_bench/envs/furniture_bench_env.py, and their "
            "youngwoon/furniture_bench_rlds_dataset_builder.",
            RATE,
            LOADERS + " They turn the command's quaternion into Euler angles.",
            "The gripper is opened below 0 and closed above: clvrai/furniture-bench, furniture_bench/robot/panda.py.",
            REACHED + "the command's position is told in the axes of the base and its turn in those of the tool "
            "(panda.py), so that no one frame holds both.",
        ),
    ),
    DatasetSpec(
        name="cmu_franka_exploration" + DATASET_TO_RLDS,
        cameras={"highres_image": "external"},
        control_period_sec=0.1,
        action=ActionSpec(position=cols("action", 0, 3), gripper=cols("action", 6, 1), absent="unknown"),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(
            CATALOGUE + " It says position and orientation of the end effector.",
            RATE,
            LOADERS,
            "Positions are differences of the measured ones, to the next step; rotations are differences of Euler "
            "angles about z, y, z, from which no turn follows without a pose, and none is recorded: unknown. The "
            "loaders take them for roll, pitch and yaw. The gripper is written as open for three steps, then closed. "
            "The makers' russellmendonca/rlds_dataset_builder, cmu_franka_exploration/preprocess_data.py, and its "
            "dataset builder, by which `image` is `highres_image` at 64 pixels: left out. Metres are assumed.",
        ),
    ),
    DatasetSpec(
        name="austin_sailor" + DATASET_TO_RLDS,
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.05,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(joints=cols("observation/state_joint", 0, 7), arm="panda"),
        proprio=(cols("observation/state", 0, 8), cols("observation/state_joint", 0, 7)),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(CATALOGUE, RATE, LOADERS, KINEMATICS + CONTROLLER_UNITS),
    ),
    DatasetSpec(
        name="austin_sirius" + DATASET_TO_RLDS,
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.05,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(joints=cols("observation/state_joint", 0, 7), arm="panda"),
        proprio=(cols("observation/state_joint", 0, 7), cols("observation/state_gripper", 0, 1)),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(
            CATALOGUE + " `state` is joints and gripper, as it says; OpenVLA reads a pose from it.",
            RATE, LOADERS, KINEMATICS + CONTROLLER_UNITS,
        ),
    ),
    DatasetSpec(
        name="utaustin_mutex",
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.05,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(joints=cols("observation/state", 0, 7), arm="panda"),
        proprio=(cols("observation/state", 0, 8),),
        versions=("0.1.0",),
        bgr=("image", "wrist_image"),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(
            CATALOGUE, RATE, LOADERS, KINEMATICS + CONTROLLER_UNITS,
            "Both cameras are stored as BGR: rlds_dataset_mod's prepare_open_x.sh.",
        ),
    ),
    DatasetSpec(
        name="iamlab_cmu_pickup_insert" + TO_RLDS,
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.05,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 7, 1)),
        pose=PoseSpec(joints=cols("observation/state", 0, 7), arm="panda"),
        proprio=(cols("observation/state", 0, 8),),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(
            CATALOGUE + " It says position and quaternion of the end effector, and gripper.",
            RATE,
            LOADERS,
            KINEMATICS + "it is the absolute pose of the next step, its quaternion w, x, y, z, and its gripper 1 when "
            "open (the makers' mohitsharma0690/rlds_dataset_builder, iamlab_cmu_pickup_insert/"
            "create_iamlab_data_helpers.py). The loaders take it for a difference.",
        ),
    ),
    DatasetSpec(
        name="cmu_play_fusion",
        cameras={"image": "external"},
        control_period_sec=0.2,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 7, 1)),
        pose=PoseSpec(joints=cols("observation/state", 0, 7), arm="panda"),
        proprio=(cols("observation/state", 0, 8),),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(
            CATALOGUE + " It says: delta of position and quaternion (7), gripper, terminate; state is 7 joints and "
            "gripper.",
            RATE,
            KINEMATICS + "the order of its quaternion and its axes are not published. The loaders take columns 0 to 2 "
            "and the last four, which splits the quaternion and takes `terminate` for the gripper.",
        ),
    ),
    DatasetSpec(
        name="cmu_playing_with_food",
        cameras={"image": "external", "finger_vision_1": "wrist", "finger_vision_2": "wrist"},
        control_period_sec=0.1,
        action=ActionSpec(gripper=cols("action", -1, None), absent="unknown"),
        proprio=(cols("observation/state"),),
        versions=("1.0.0",),
        bgr=("image", "finger_vision_1", "finger_vision_2"),
        embodiment="Franka Panda",
        licence=COLLECTION,
        sources=(
            RATE,
            LOADERS + " They read position, quaternion and, last, the gripper.",
            "The makers' firephinx/rlds_dataset_builder, cmu_playing_with_food/playing_with_food_helpers.py: positions "
            "and quaternion are one and the same all along most episodes, no motion follows from them, and it is "
            "unknown; the gripper is 1 in releases and 0 in grasps; the state is six forces.",
            "All cameras are stored as BGR: that builder reads videos by OpenCV and writes its frames as they are.",
            "Features and version 1.0.0: a listing of the bucket's dataset_info.json (" + INVENTORY + "), and "
            "iVideoGPT's converter.",
        ),
    ),
    DatasetSpec(
        name="berkeley_rpt" + TO_RLDS,
        cameras={"hand_image": "wrist"},
        control_period_sec=1 / 30,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 7, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(joints=cols("observation/joint_pos", 0, 7), arm="panda"),
        proprio=(cols("observation/joint_pos", 0, 7), cols("observation/gripper", 0, 1)),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=MIT,
        sources=(
            CATALOGUE + " The set is one of a Franka; the text beside `joint_pos` says xArm, left over from "
            "berkeley_mvp.",
            RATE,
            "The gripper is 1 when closed: the catalogue of the state, and Octo, which inverts the command. It is the "
            "next step's, in the makers' ir413/rlds_dataset_builder, rpt_dataset/rpt_dataset_dataset_builder.py, which "
            "takes 1 less a width, or less a flag that it is closed: where the flag was recorded, 1 would be open.",
            KINEMATICS + "it is differences of joints. OpenVLA refuses the set, Octo keeps joints at a third of the "
            "rate.",
            "Two fixed cameras of the paper are not in the release.",
        ),
    ),
    DatasetSpec(
        name="kaist_nonprehensile" + TO_RLDS,
        cameras={"image": "external"},
        control_period_sec=0.1,
        action=ActionSpec(
            frame=Frame.BASE, position=cols("action", 0, 3), rotation=cols("action", 3, 3),
            rotation_form=Rotation.ROTVEC,
        ),
        pose=PoseSpec(
            position=cols("observation/state", 14, 3), rotation=cols("observation/state", 17, 4),
            rotation_form=Rotation.QUAT_XYZW,
        ),
        proprio=(cols("observation/state", 0, 21),),
        versions=("0.1.0",),
        embodiment="Franka Panda",
        licence=CC_BY,
        sources=(
            CATALOGUE + " It says: residuals of position and axis-angle, applied from the left; pose of the tool as "
            "position and quaternion x, y, z, w. The loaders put the axis-angle where Euler angles belong.",
            RATE,
            "It pushes and never grasps: the gripper is fixed.",
        ),
    ),
    DatasetSpec(
        name="stanford_robocook" + TO_RLDS,
        cameras={f"image_{k}": "external" for k in (1, 2, 3, 4)},
        control_period_sec=0.2,
        action=ActionSpec(
            motion=Motion.REACHED, gripper=cols("observation/state", 6, 1), gripper_next=True,
            gripper_rule=Gripper.WIDTH, gripper_range=0.0767,
        ),
        pose=PoseSpec(
            position=cols("observation/state", 0, 3), rotation=cols("observation/state", 3, 3),
            turned=(3.141592653589793, 0.0, 0.0),
        ),
        proprio=(cols("observation/state", 0, 7),),
        versions=("0.1.0",),
        embodiment="Franka Panda with kitchen tools",
        licence=MIT,
        sources=(
            CATALOGUE + " It says velocities, of the gripper too; state is position, Euler angles, gripper.",
            RATE,
            "Orientations are turned by 180 degrees about the base's x before their angles (SciPy's `xyz`) are taken: "
            "the makers' hshi74/rlds_dataset_builder, robocook/robocook_dataset_builder.py. That is undone here; the "
            "loaders take the turns of the turned axes.",
            REACHED + "by that builder the `velocities` are differences to the next state, told in the turned axes.",
            "The gripper is the measured width of the next step, 7.67 cm when open (RDT's scale): a difference is no "
            "state.",
        ),
    ),
    DatasetSpec(
        name="droid",
        cameras={"exterior_image_1_left": "external", "exterior_image_2_left": "external", "wrist_image_left": "wrist"},
        control_period_sec=1 / 15,
        action=ActionSpec(
            motion=Motion.REACHED, gripper=cols("action_dict/gripper_position", 0, 1), gripper_rule=Gripper.CLOSED,
        ),
        pose=PoseSpec(
            position=cols("observation/cartesian_position", 0, 3),
            rotation=cols("observation/cartesian_position", 3, 3),
        ),
        proprio=(
            cols("observation/cartesian_position", 0, 6), cols("observation/gripper_position", 0, 1),
            cols("observation/joint_position", 0, 7),
        ),
        versions=("1.0.0", "1.0.1"),
        success="file_path",
        success_text="/success/",
        embodiment="Franka Panda, Robotiq 2F-85",
        licence="CC BY 4.0 (third parties say so; the makers' page was not read); MIT (LeRobot's copy of 100 episodes)",
        sources=(
            "Features: droid/droid.py of droid_dataset_builder (its copy at kylehsu-tri). 15 Hz: LeRobot's "
            "openx/configs.yaml.",
            "Euler angles about the fixed axes x, y, z: droid-dataset/droid, droid/misc/transformations.py (SciPy's "
            "`xyz`). The pose follows from the joints by kinematics: droid/franka/robot.py.",
            REACHED + "`cartesian_velocity`, which the loaders use, is a share of the largest step of the controller, "
            "7.5 cm and 0.15 rad at 15 Hz (droid/robot_ik/robot_ik_solver.py), and no metres per second. `action` is "
            "the position target and the gripper (the builder), though the features say joint velocities.",
            "The gripper is 1 when closed: droid/franka/robot.py; both loaders invert it.",
            "Success is told by a folder in `file_path` alone: the builder reads it from there too.",
            "The two exterior cameras have no order: the builder takes them as they come, OpenVLA swaps them at "
            "random.",
        ),
    ),
    DatasetSpec(
        name="fmb",
        cameras={
            "image_side_1": "external", "image_side_2": "external", "image_wrist_1": "wrist", "image_wrist_2": "wrist",
        },
        control_period_sec=0.1,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(
            position=cols("observation/eef_pose", 0, 3), rotation=cols("observation/eef_pose", 3, 4),
            rotation_form=Rotation.QUAT_XYZW,
        ),
        proprio=(cols("observation/eef_pose", 0, 7), cols("observation/state_gripper_pose", 0, 1)),
        versions=("0.0.1", "0.1.0"),
        bgr=("image_side_1", "image_side_2", "image_wrist_1", "image_wrist_2"),
        embodiment="Franka Panda",
        licence=CC_BY,
        sources=(
            CATALOGUE,
            RATE,
            "The gripper is 1 when closed: the makers' page of the data (functional-manipulation-benchmark.github.io) "
            "says so of the state, and set_gripper in rail-berkeley/fmb, robot_infra/envs/franka_fmb_env.py does so "
            "with the command. Octo and OpenVLA pass it on as if 1 were open; RDT inverts the state alone.",
            "All cameras are stored as BGR: the same page; robot_infra/camera/rs_capture.py asks for bgr8, and the "
            "builders in fmb_dataset_builder write what was recorded. rlds_dataset_mod does not prepare this set.",
            "The pose is told in the axes of the base (the page), its quaternion x, y, z, w (SciPy's, in "
            "franka_fmb_env.py, and RDT).",
            REACHED + "a compliant controller follows the command late. franka_fmb_env.py takes it for a difference "
            "in the axes of the base, 6 cm and a quarter of a radian at most.",
        ),
    ),
    DatasetSpec(
        name="robo_set",
        cameras={
            "image_left": "external", "image_right": "external", "image_top": "external", "image_wrist": "wrist",
        },
        control_period_sec=0.2,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 7, 1), gripper_rule=Gripper.CLOSED),
        pose=PoseSpec(joints=cols("observation/state", 0, 7), arm="panda"),
        proprio=(cols("observation/state", 0, 8),),
        versions=("0.0.1", "0.1.0"),
        embodiment="Franka Panda, Robotiq 2F-85",
        licence=COLLECTION,
        sources=(
            CATALOGUE,
            RATE,
            "The gripper is clipped and inverted: OpenVLA's rlds/oxe/transforms.py.",
            KINEMATICS + "it is joints. The tool is taken to be as long as the Franka Hand: its orientation does not "
            "change with that, its position by a few centimetres of lever.",
        ),
    ),
    DatasetSpec(
        name="libero_spatial_no_noops",
        cameras={"image": "external", "wrist_image": "wrist"},
        control_period_sec=0.05,
        action=ActionSpec(motion=Motion.REACHED, gripper=cols("action", 6, 1), gripper_rule=Gripper.SIGNED_CLOSED),
        pose=PoseSpec(
            position=cols("observation/state", 0, 3), rotation=cols("observation/state", 3, 3),
            rotation_form=Rotation.ROTVEC,
        ),
        proprio=(cols("observation/state", 0, 8),),
        versions=("1.0.0",),
        embodiment="simulated Franka Panda",
        licence="CC BY 4.0 (README of Lifelong-Robot-Learning/LIBERO; its code is MIT)",
        sources=(
            "Features: libero_dataset_transform and its entry in configs.py of openvla/openvla, rlds/oxe; the gripper "
            "is -1 open to 1 closed there. State is position, axis-angle and two fingers: the same function in "
            "lihzha/lap-thirdparty, src/openpi_cot/dataloader/oxe_utils/transforms.py. Version 1.0.0 is assumed.",
            REACHED + "it is what robosuite's controller was given, at most 0.94 in size (openvla/openvla, issue 315), "
            "and no number of metres.",
            "20 Hz: Lifelong-Robot-Learning/LIBERO, libero/libero/envs/env_wrapper.py. OpenVLA removed the steps in "
            "which nothing was commanded, so time has gaps.",
        ),
    ),
)

"""Every entry of the registry, on an episode made of the features it names: a known motion, put into the dataset's own
encoding by SciPy, must come back; and on specs of every motion, rotation and gripper that no entry has.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Turn

from whale.actions import accumulate
from whale.clips.clip import ActionType
from whale.data_prep.oxe.kinematics import forward
from whale.data_prep.oxe.mixtures import LEFT_OUT, MIXTURES, mixture_of
from whale.data_prep.oxe.registry import REGISTRY, spec_of
from whale.data_prep.oxe.spec import ActionSpec, DatasetSpec, Frame, Gripper, Motion, Part, PoseSpec, Rotation
from whale.data_prep.oxe.transforms import (
    canonical_actions,
    feature_at,
    frame_of,
    has_pose,
    poses,
    proprio_of,
    success_of,
)
from whale.errors import UserError

LENGTH = 9
USABLE = sorted(name for name, spec in REGISTRY.items() if spec.unusable is None)
WIDTH = {Rotation.YAW: 1, Rotation.QUAT_XYZW: 4, Rotation.QUAT_WXYZ: 4}
SCIPY_EULER = {Rotation.EULER: "xyz", Rotation.EULER_ZYX: "ZYX", Rotation.EULER_ZXY: "zxy"}
OPEN = np.array([1, 1, 0, 0, 0, 1, 1, 0, 1.0])
"""The gripper after each step: it starts open, and closes at the third."""


def written(rotation: Turn, form: Rotation) -> np.ndarray:
    """Rotations [T] in a dataset's form, by SciPy."""
    if form in SCIPY_EULER:
        return rotation.as_euler(SCIPY_EULER[form])
    if form is Rotation.ROTVEC:
        return rotation.as_rotvec()
    if form is Rotation.YAW:
        return rotation.as_rotvec()[:, 2:]
    return rotation.as_quat(scalar_first=form is Rotation.QUAT_WXYZ)


class Episode:
    """Features of an episode, filled with noise as wide as the spec needs, then part by part."""

    def __init__(self, spec: DatasetSpec, rng: np.random.Generator):
        self.arrays: dict[str, np.ndarray] = {}
        action, pose = spec.action, spec.pose
        parts = [*spec.proprio, action.position, action.rotation, action.gripper, action.joints, pose.position,
                 pose.rotation, pose.joints]
        for part in (part for part in parts if part is not None):
            width = max(part.first, 0) + (part.size or 8)
            had = self.arrays.get(part.key, np.zeros((LENGTH, 0)))
            self.arrays[part.key] = rng.normal(size=(LENGTH, max(width, had.shape[1])))

    def put(self, part: Part, values: np.ndarray) -> None:
        self.arrays[part.key][:, part.first : None if part.size is None else part.first + part.size] = values

    def steps(self) -> dict:
        """Nested once, as TFDS nests them: a name may have a slash of its own."""
        nested: dict = {"is_first": np.arange(LENGTH) == 0}
        for key, values in self.arrays.items():
            outer, _, inner = key.partition("/")
            values = values > 0.5 if inner == "open_gripper" else values
            if inner:
                nested.setdefault(outer, {})[inner] = values[:, 0] if values.shape[1] == 1 else values
            else:
                nested[outer] = values
        return nested


def stored_gripper(rule: Gripper, full: float) -> np.ndarray:
    """What a dataset with this rule records for OPEN."""
    before = np.concatenate([[1.0], OPEN[:-1]])
    return {
        Gripper.OPEN: OPEN, Gripper.CLOSED: 1 - OPEN, Gripper.SIGNED_OPEN: 2 * OPEN - 1,
        Gripper.SIGNED_CLOSED: 1 - 2 * OPEN, Gripper.WIDTH: OPEN * full, Gripper.RELATIVE_CLOSED: before - OPEN,
    }[rule]


def made(spec: DatasetSpec, seed: int) -> tuple[dict, np.ndarray]:
    """Steps of an episode in the dataset's encoding, and the canonical actions float64 [LENGTH - 1, 7] behind it."""
    rng = np.random.default_rng(seed)
    action, pose = spec.action, spec.pose
    reached = action.motion is Motion.REACHED
    told = pose if reached else action
    episode = Episode(spec, rng)
    if reached and pose.joints is not None:
        joints = np.cumsum(rng.uniform(-0.2, 0.2, (LENGTH, 7)), 0)
        position, matrices = forward(joints, "panda", pose.tcp_m)
        rotation = Turn.from_matrix(matrices)
        episode.put(pose.joints, joints)
    else:
        moves = rng.normal(0, 0.03, (LENGTH, 3)) * (np.arange(3) < ((told.position.size or 3) if told.position else 0))
        turns = rng.normal(0, 0.4, (LENGTH, 3)) * (told.rotation is not None)
        start = Turn.random(rng=rng) if told.rotation is not None else Turn.identity()
        if told.rotation_form is Rotation.YAW:
            turns[:, :2], start = 0, Turn.from_rotvec([0, 0, rng.uniform(-3, 3)])
        along = itertools.accumulate(turns[1:], lambda before, turn: Turn.from_rotvec(turn) * before, initial=start)
        position, rotation = np.cumsum(moves, 0), Turn.concatenate(list(along))
    shift, turn = np.diff(position, axis=0), (rotation[1:] * rotation[:-1].inv()).as_rotvec()
    if pose.position is not None:
        episode.put(pose.position, position[:, : pose.position.size or 3] / pose.metres)
    if pose.rotation is not None:
        values = written(Turn.from_rotvec(pose.turned) * rotation, pose.rotation_form)
        episode.put(pose.rotation, values / pose.radians)
    # What is recorded of the action of the last step, beyond the end, is anything.
    after = np.concatenate([position[1:], position[-1:] + 0.01])
    facing = Turn.concatenate([rotation[1:], rotation[-1:]])
    command, command_turn = np.concatenate([shift, [[0.01] * 3]]), np.concatenate([turn, [[0.01] * 3]])
    if action.frame is Frame.TOOL and has_pose(pose):
        command, command_turn = rotation.inv().apply(command), rotation.inv().apply(command_turn)
    if reached and action.frame is Frame.TOOL:
        shift, turn = rotation[:-1].inv().apply(shift), rotation[:-1].inv().apply(turn)
    period = spec.control_period_sec if action.motion is Motion.VELOCITY else 1
    absolute = action.motion in (Motion.TARGET, Motion.PATH)
    if action.position is not None:
        values = after if absolute else command / period
        episode.put(action.position, values[:, : action.position.size or 3] / action.metres)
    if action.rotation is not None and action.motion is Motion.VELOCITY:
        episode.put(action.rotation, command_turn / period / action.radians)
    elif action.rotation is not None:
        values = written(facing if absolute else Turn.from_rotvec(command_turn), action.rotation_form)
        episode.put(action.rotation, values / action.radians)
    if action.gripper is not None:
        values = stored_gripper(action.gripper_rule, action.gripper_range)
        episode.put(action.gripper, np.roll(values, int(action.gripper_next))[:, None])
    gripper = OPEN * (action.gripper is not None)
    if action.gripper_next:
        gripper = np.concatenate([OPEN[:-1], OPEN[-2:-1]])
    if told.position is None and told.rotation is None and not (reached and pose.joints):
        shift, turn = 0 * shift, 0 * turn
    return episode.steps(), np.concatenate([shift, turn, gripper[:-1, None]], 1)


def comes_back(spec: DatasetSpec, seed: int) -> None:
    steps, truth = made(spec, seed)
    actions, known = canonical_actions(steps, spec)
    assert actions.shape == (LENGTH, 7) and actions.dtype == np.float32 and np.isfinite(actions).all()
    first = int(spec.action.motion is Motion.PATH)
    assert known.tolist() == [not first] + [True] * (LENGTH - 2) + [False]
    np.testing.assert_allclose(actions[first:-1], truth[first:], atol=2e-6)
    moved = np.abs(actions[first:-1]).max(0) > 0
    assert [status.name == "ACTUATED" for status in spec.action_status] == moved.tolist()
    proprio = proprio_of(steps, spec)
    assert (proprio is None) == (not spec.proprio) and (proprio is None or np.isfinite(proprio).all())


@pytest.mark.parametrize("name", USABLE)
def test_a_known_motion_comes_back_through_the_encoding_of_each_dataset(name):
    for seed in range(3):
        comes_back(REGISTRY[name], seed)


def of(motion, form, frame, *, pose=True, metres=1.0, radians=1.0, **more) -> DatasetSpec:
    size = WIDTH.get(form, 3)
    action = ActionSpec(
        motion=motion, frame=frame, position=Part(key="action", size=3),
        rotation=Part(key="action", first=3, size=size), rotation_form=form, metres=metres,
        radians=radians if size < 4 else 1.0, gripper=Part(key="action", first=3 + size, size=1), **more)
    there = PoseSpec(
        position=Part(key="observation/state", size=3), rotation=Part(key="observation/state", first=3, size=size),
        rotation_form=form, metres=metres, radians=radians if size < 4 else 1.0)
    return DatasetSpec(name="x", cameras={}, control_period_sec=0.1, action=action, pose=there if pose else PoseSpec())


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(Motion), st.sampled_from(Rotation), st.sampled_from(Frame), st.sampled_from(Gripper), st.booleans(),
    st.sampled_from([1.0, 0.001]), st.sampled_from([1.0, np.pi / 180]), st.integers(0, 10_000),
)
def test_every_motion_in_every_form_comes_back(motion, form, frame, rule, pose, metres, radians, seed):
    if motion is Motion.VELOCITY:
        form = Rotation.ROTVEC  # an angular velocity
    pose = pose or motion in (Motion.REACHED, Motion.TARGET)
    if form is Rotation.YAW and frame is Frame.TOOL:
        frame = Frame.BASE
    comes_back(of(motion, form, frame, pose=pose, metres=metres, radians=radians, gripper_rule=rule,
                  gripper_range=0.08), seed)


@given(st.sampled_from([one for one in USABLE if REGISTRY[one].action.motion is Motion.REACHED]), st.integers(0, 999))
def test_reached_motions_lead_from_pose_to_pose(name, seed):
    spec = REGISTRY[name]
    steps, _ = made(spec, seed)
    position, rotation = poses(steps, spec)
    actions = canonical_actions(steps, spec)[0]
    along = accumulate(actions[:-1].astype(np.float64), frame_of(spec).value, (position[0], rotation[0]))
    assert np.allclose(along[0], position, atol=1e-5) and np.allclose(along[1], rotation, atol=1e-5)


@pytest.mark.parametrize("name", USABLE)
def test_an_action_knows_nothing_beyond_the_next_step(name):
    spec, rng = REGISTRY[name], np.random.default_rng(1)
    steps, _ = made(spec, 0)
    other, _ = made(spec, 1)

    def spliced(a, b, t):
        if isinstance(a, dict):
            return {key: spliced(a[key], b[key], t) for key in a}
        return np.concatenate([a[: t + 2], b[t + 2 :]])

    actions = canonical_actions(steps, spec)[0]
    for t in rng.permutation(LENGTH - 2)[:4]:
        changed = canonical_actions(spliced(steps, other, t), spec)[0]
        first = 2 if spec.action.gripper_rule is Gripper.RELATIVE_CLOSED else 0  # what it was before any command
        assert np.array_equal(actions[: t + 1, :6], changed[: t + 1, :6])
        assert np.array_equal(actions[first : t + 1, 6], changed[first : t + 1, 6])


A, F, U = "ACTUATED", "FIXED", "UNKNOWN"


@pytest.mark.parametrize(("name", "status"), [
    ("fractal20220817_data", [A] * 7),
    ("kuka", [A] * 7),
    ("bridge_dataset", [A] * 7),
    ("jaco_play", [A, A, A, F, F, F, A]),
    ("berkeley_cable_routing", [A] * 6 + [F]),
    ("language_table", [A, A, F, F, F, F, F]),
    ("columbia_cairlab_pusht_real", [A, A, F, F, F, F, F]),
    ("stanford_kuka_multimodal_dataset_converted_externally_to_rlds", [A, A, A, U, U, U, U]),
    ("ucsd_pick_and_place_dataset_converted_externally_to_rlds", [A, A, A, F, F, F, A]),
    ("robo_net", [A, A, A, F, F, A, A]),
    ("stanford_mask_vit_converted_externally_to_rlds", [A, A, A, F, F, A, A]),
    ("kaist_nonprehensile_converted_externally_to_rlds", [A] * 6 + [F]),
    ("dlr_sara_pour_converted_externally_to_rlds", [A] * 6 + [U]),
    ("uiuc_d3field", [U] * 7),
    ("cmu_franka_exploration_dataset_converted_externally_to_rlds", [A, A, A, U, U, U, A]),
    ("cmu_playing_with_food", [U] * 6 + [A]),
    ("berkeley_gnm_recon", [A, A, F, F, F, A, F]),
    ("berkeley_rpt_converted_externally_to_rlds", [A] * 7),
    ("droid", [A] * 7),
])
def test_statuses_are_those_worked_out_by_hand(name, status):
    assert [one.name for one in REGISTRY[name].action_status] == status


def test_every_entry_says_where_it_comes_from():
    for name, spec in REGISTRY.items():
        assert spec.name == name and spec.cameras and spec.licence and spec.embodiment and spec.sources, name
        assert set(spec.bgr) <= set(spec.cameras) and 0.01 < spec.control_period_sec <= 1, name
        assert all(len(one) > 20 and one.endswith((".", ")")) for one in spec.sources), name
        assert spec.unusable or any(status.name != "FIXED" for status in spec.action_status), name
        assert spec.action.frame is not Frame.TOOL or frame_of(spec) is Frame.TOOL or has_pose(spec.pose), name
    assert len(REGISTRY) >= 65
    assert {name for name, spec in REGISTRY.items() if spec.bgr} == {
        "berkeley_autolab_ur5", "utaustin_mutex", "berkeley_fanuc_manipulation",
        "stanford_hydra_dataset_converted_externally_to_rlds", "fmb", "fmb_dataset", "cmu_playing_with_food"}
    claims = " ".join(one for spec in REGISTRY.values() for one in spec.sources)
    assert "public loader" not in claims and "a public one" not in claims  # a source has a name


def reached(name: str, feature: str, rows: list[list[float]], gripper: list[float]) -> np.ndarray:
    """Canonical actions of two steps whose poses and commands are written by hand."""
    commands = np.zeros((2, 7))
    commands[:, 6] = gripper
    steps = {"is_first": np.array([True, False]), "action": commands, "observation": {feature: np.array(rows)}}
    return canonical_actions(steps, REGISTRY[name])[0][0]


@pytest.mark.parametrize(("name", "metres"), [
    ("utokyo_pr2_opening_fridge_converted_externally_to_rlds", 0.001),
    ("utokyo_pr2_tabletop_manipulation_converted_externally_to_rlds", 0.001),
    ("tokyo_u_lsmo_converted_externally_to_rlds", 1.0),
])
def test_the_pr2_counts_in_millimetres_and_the_cobotta_in_metres(name, metres):
    action = reached(name, "state", [[500.0, 0, 800, 0, 0, 0.1, 1], [501.0, -2, 800, 0, 0, 0.3, 1]], [1, 1])
    assert np.allclose(action, [metres, -2 * metres, 0, 0, 0, 0.2, 1], atol=1e-6)


def test_fmb_closes_with_one_and_turns_by_quaternions_with_w_last():
    half = np.sin(0.05), np.cos(0.05)
    rows = [[0.5, 0, 0.2, 1, 0, 0, 0], [0.5, 0.01, 0.2, half[1], half[0], 0, 0]]  # face down; then 0.1 rad about z
    assert np.allclose(reached("fmb", "eef_pose", rows, [1, 1]), [0, 0.01, 0, 0, 0, 0.1, 0], atol=1e-6)
    assert reached("fmb", "eef_pose", rows, [0, 1])[6] == 1


def test_furniture_bench_opens_below_zero_and_closes_above():
    name = "furniture_bench_dataset_converted_externally_to_rlds"
    steps = {
        "is_first": np.arange(3) == 0, "action": np.array([[0.0] * 6 + [1, sign] for sign in (-1, 1, 1)]),
        "observation": {"state": np.tile([0.5, 0, 0.2, 1, 0, 0, 0], (3, 1))},
    }
    assert canonical_actions(steps, REGISTRY[name])[0][:, 6].tolist() == [1, 0, 0]


def test_rh20t_turns_by_roll_pitch_and_yaw():
    steps = {
        "is_first": np.array([True, False]), "action": {"gripper": np.array([0, 1])},
        "observation": {"tcp_base": np.array([[0.4, 0, 0.3, np.pi, 0, 0], [0.4, 0, 0.3, np.pi, 0, 0.2]])},
    }
    assert np.allclose(canonical_actions(steps, REGISTRY["rh20t"])[0][0], [0, 0, 0, 0, 0, 0.2, 0], atol=1e-6)


@pytest.mark.parametrize(("name", "first", "width"), [("stanford_hydra", 10, 27), ("nyu_franka_play", 0, 13)])
def test_joints_that_stand_elsewhere_in_the_state_give_the_motion(name, first, width):
    home = np.array([0, -0.5, 0, -2.2, 0, 1.7, 0.8])
    states = np.full((2, width), 0.3)
    states[:, first : first + 7] = home, home + 0.1 * np.eye(7)[0]  # about the base's own axis
    steps = {"is_first": np.array([True, False]), "action": np.zeros((2, 15)), "observation": {"state": states}}
    action = canonical_actions(steps, REGISTRY[f"{name}_dataset_converted_externally_to_rlds"])[0][0]
    assert np.allclose(action[2:6], [0, 0, 0, 0.1], atol=1e-6) and 0.02 < np.hypot(*action[:2]) < 0.09


def test_robocook_undoes_the_half_turn_of_its_orientations():
    states = np.array([[0.5, 0, 0.2, 0, 0, 0, 0.0767], [0.5, 0, 0.2, 0.1, 0.2, 0, 0]])  # a hand that faces down
    steps = {"is_first": np.array([True, False]), "observation": {"state": states}}
    true = (Turn.from_euler("xyz", [[-np.pi, 0, 0]]) * Turn.from_euler("xyz", states[:, 3:6])).as_matrix()
    expected = Turn.from_matrix(true[1] @ true[0].T).as_rotvec()
    action = canonical_actions(steps, REGISTRY["stanford_robocook_converted_externally_to_rlds"])[0][0]
    assert np.allclose(action, [0, 0, 0, *expected, 0], atol=1e-6) and expected[1] < -0.19


def test_grippers_that_loaders_read_otherwise():
    def of_two(name, action, state, key="state"):
        steps = {"is_first": np.array([True, False]), "action": np.array(action, float),
                 "observation": {key: np.array(state, float)}}
        return canonical_actions(steps, REGISTRY[name])[0][:, 6].tolist()

    still = [0.5, 0, 0.2, 0, 0, 0]
    edan, rot = "dlr_edan_shared_control_converted_externally_to_rlds", "nyu_rot_dataset_converted_externally_to_rlds"
    assert of_two(edan, [[0] * 7] * 2, [[*still, 0], [*still, 1]])[0] == 0  # it closes by the next step
    assert of_two(rot, [[0] * 7] * 2, [[*still, 1]] * 2) == [0, 0]  # closed, whatever is commanded
    hydra = "stanford_hydra_dataset_converted_externally_to_rlds"
    assert of_two(hydra, [[0] * 6 + [closed] for closed in (0, 1)], [[0] * 27] * 2) == [1, 0]
    play = "nyu_franka_play_dataset_converted_externally_to_rlds"
    assert of_two(play, [[0] * 13 + [sign, 0] for sign in (-1, 1)], [[0] * 13] * 2) == [0, 1]
    xarm = "utokyo_xarm_pick_and_place_converted_externally_to_rlds"
    assert of_two(xarm, [[0] * 6 + [pulled] for pulled in (0, 1)], [still] * 2, "end_effector_pose") == [1, 0]


def test_versions_and_licences_that_were_looked_up():
    assert REGISTRY["robo_net"].versions == ("0.1.0", "1.0.0")
    assert all(REGISTRY[name].licence.startswith("CC BY 4.0") for name in REGISTRY if name.startswith("libero_"))


@pytest.mark.parametrize("name", sorted(MIXTURES))
def test_mixtures_hold_datasets_that_can_be_converted(name):
    mixture = mixture_of(name)
    assert all(weight > 0 and spec_of(dataset).unusable is None for dataset, weight in mixture.items())


def test_the_mixture_for_pretraining_holds_or_refuses_each_dataset():
    whale = MIXTURES["whale_x"]
    assert set(whale) | set(LEFT_OUT) == set(REGISTRY) and not set(whale) & set(LEFT_OUT)
    assert whale["fractal20220817_data"] == pytest.approx(87_212**0.5)
    assert sum(MIXTURES["ivideogpt_select"].values()) == pytest.approx(1)
    with pytest.raises(UserError, match="no mixture 'whale-x'") as refused:
        mixture_of("whale-x")
    assert "did you mean 'whale_x'" in str(refused.value)


def test_names_that_are_nearly_right_and_datasets_that_do_not_fit():
    with pytest.raises(UserError) as refused:
        spec_of("stanford_hydra_converted_externally_to_rlds")
    assert "did you mean 'stanford_hydra_dataset_converted_externally_to_rlds'" in str(refused.value)
    with pytest.raises(UserError, match="seven slots"):
        spec_of("aloha_static_dataset")
    with pytest.raises(ValueError, match="seven slots"):
        canonical_actions({"is_first": np.zeros(3)}, REGISTRY["aloha_static_dataset"])


def test_labels_of_success():
    droid, kuka, bc_z = REGISTRY["droid"], REGISTRY["kuka"], REGISTRY["bc_z"]
    assert success_of({"file_path": b"/a/lab/success/2023-05-09/trajectory.h5"}, {}, droid) is True
    assert success_of({"file_path": "/a/lab/failure/2023-05-09/trajectory.h5"}, {}, droid) is False
    assert success_of({"success": np.bool_(False)}, {}, kuka) is False
    assert success_of({}, {"observation": {"episode_success": np.array([0, 1.0])}}, bc_z) is True
    assert success_of({}, {}, REGISTRY["toto"]) is None
    with pytest.raises(KeyError):
        success_of({}, {}, kuka)


def test_names_with_slashes_of_their_own():
    steps = {"observation": {"present": {"xyz": 1}, "present/xyz": 2, "pre": 3}}
    assert feature_at(steps, "observation/present/xyz") == 2 and feature_at(steps, "observation/pre") == 3
    with pytest.raises(KeyError, match="observation/present/z"):
        feature_at(steps, "observation/present/z")


@pytest.mark.parametrize("motion", [Motion.DELTA, Motion.TARGET, Motion.REACHED])
def test_joint_actions_fill_six_slots_and_no_more(motion):
    rng = np.random.default_rng(3)
    joints = np.cumsum(rng.normal(size=(LENGTH, 7)), 0)
    part, command = Part(key="observation/q", size=6), Part(key="action", size=6)
    spec = DatasetSpec(
        name="six", cameras={}, control_period_sec=0.1, action_type=ActionType.JOINT, pose=PoseSpec(joints=part),
        action=ActionSpec(motion=motion, joints=None if motion is Motion.REACHED else command))
    moved = np.diff(joints, axis=0)
    stored = np.concatenate([moved if motion is Motion.DELTA else joints[1:], np.zeros((1, 7))])
    steps = {"is_first": np.zeros(LENGTH), "observation": {"q": joints}, "action": stored}
    assert np.allclose(canonical_actions(steps, spec)[0][:-1, :6], moved[:, :6], atol=1e-6)
    assert [status.name for status in spec.action_status] == [A] * 6 + [F]
    seven = replace(spec, pose=PoseSpec(joints=replace(part, size=7)),
                    action=replace(spec.action, joints=None if motion is Motion.REACHED else replace(command, size=7)))
    with pytest.raises(ValueError, match="moves 7 joints"):
        canonical_actions(steps, seven)


def test_absolute_actions_are_not_passed_on_as_zeros():
    spec = replace(REGISTRY["bridge_dataset"], action_type=ActionType.EEF_ABSOLUTE)
    with pytest.raises(ValueError, match="eef_absolute are not made"):
        canonical_actions(made(spec, 0)[0], spec)

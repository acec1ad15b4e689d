import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from whale.data_prep.oxe.registry import REGISTRY
from whale.data_prep.oxe.rotations import matrix_from_euler
from whale.data_prep.oxe.transforms import canonical_actions
from whale.rotations import rotvec_from_matrix

angles = st.floats(-7, 7)


@given(st.tuples(angles, angles, angles))
def test_euler_angles_are_about_the_fixed_axes(euler):
    assert np.allclose(matrix_from_euler(np.array(euler)), Rotation.from_euler("xyz", euler).as_matrix(), atol=1e-12)


@settings(max_examples=300)
@given(st.tuples(*[st.floats(-1, 1)] * 3), st.sampled_from([1e-9, 1e-3, 1.0, 3.0, 3.14159]))
def test_rotation_vectors_agree_with_scipy_near_zero_and_near_pi(axis, angle):
    axis = np.array(axis) + np.array([0, 0, 1e-3])
    rotation = Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle)
    vector = rotvec_from_matrix(rotation.as_matrix())
    assert np.allclose(vector, rotation.as_rotvec(), atol=1e-6 if angle > 3 else 1e-12)


def test_half_turns_and_batches():
    for axis in np.eye(3):
        vector = rotvec_from_matrix(Rotation.from_rotvec(axis * np.pi).as_matrix())
        assert np.allclose(np.abs(vector), axis * np.pi, atol=1e-9)
    matrices = Rotation.random(20, rng=0).as_matrix()
    assert np.allclose(rotvec_from_matrix(matrices.reshape(4, 5, 3, 3)).reshape(20, 3),
                       Rotation.from_matrix(matrices).as_rotvec())


def test_bridge_motion_leads_from_state_to_state():
    rng = np.random.default_rng(0)
    state = rng.uniform(-1, 1, (6, 7)).astype(np.float32)
    command = rng.uniform(-1, 2, (6, 7)).astype(np.float32)
    actions, known = canonical_actions(
        {"observation": {"state": state}, "action": command, "is_first": np.zeros(6)}, REGISTRY["bridge_dataset"])
    assert known.tolist() == [True] * 5 + [False] and actions.dtype == np.float32
    for t in range(5):
        assert np.allclose(state[t, :3] + actions[t, :3], state[t + 1, :3], atol=1e-6)
        after = Rotation.from_rotvec(actions[t, 3:6]) * Rotation.from_euler("xyz", state[t, 3:6])
        assert np.allclose(after.as_matrix(), Rotation.from_euler("xyz", state[t + 1, 3:6]).as_matrix(), atol=1e-5)
    assert np.array_equal(actions[:, 6], np.clip(command[:, 6], 0, 1))


def test_every_entry_is_complete():
    for name, spec in REGISTRY.items():
        assert spec.name == name and spec.sources and spec.licence and len(spec.action_status) == 7
        assert set(spec.cameras.values()) <= {"external", "wrist", "ego"} and spec.control_period_sec > 0

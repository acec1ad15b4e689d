"""Named mixtures of datasets: how often each is drawn, in proportion to the others.

Those of others are taken over with their weights, under the names of this registry. `whale_x`, for pretraining, holds
every dataset that can be used: its weight is the square root of its number of episodes. In proportion to the
episodes, two sets would make up two thirds of all that is drawn; with equal weights, a set of 14 episodes would be
seen as often as one of 440,000. The root lies between. What is left out is in `LEFT_OUT`, with the reason.
"""

import difflib
import math

from whale.data_prep.oxe.registry_facts import DATASET_TO_RLDS, TO_RLDS
from whale.errors import UserError

Mixture = dict[str, float]

# Octo's RT_X_MIX. OpenVLA's leaves out nyu_door_opening_surprising_effectiveness, which has a wrist camera alone.
_RT_X: Mixture = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.8341046294,
    "bridge_dataset": 1.0,
    "taco_play": 2.0,
    "jaco_play": 2.0,
    "berkeley_cable_routing": 3.0,
    "roboturk": 1.0,
    "nyu_door_opening_surprising_effectiveness": 5.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 1.0,
    "toto": 1.0,
}

# OpenVLA's `oxe_magic_soup_plus`.
_MAGIC_SOUP_PLUS: Mixture = {
    "fractal20220817_data": 0.54087122203,
    "kuka": 0.8341046294,
    "bridge_orig": 1.0,
    "taco_play": 2.0,
    "jaco_play": 1.0,
    "berkeley_cable_routing": 1.0,
    "roboturk": 2.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 2.0,
    "toto": 1.0,
    "language_table": 0.1,
    "stanford_hydra" + DATASET_TO_RLDS: 2.0,
    "austin_buds" + DATASET_TO_RLDS: 1.0,
    "nyu_franka_play" + DATASET_TO_RLDS: 3.0,
    "furniture_bench" + DATASET_TO_RLDS: 0.1,
    "ucsd_kitchen" + DATASET_TO_RLDS: 2.0,
    "austin_sailor" + DATASET_TO_RLDS: 1.0,
    "austin_sirius" + DATASET_TO_RLDS: 1.0,
    "dlr_edan_shared_control" + TO_RLDS: 1.0,
    "iamlab_cmu_pickup_insert" + TO_RLDS: 1.0,
    "utaustin_mutex": 1.0,
    "berkeley_fanuc_manipulation": 2.0,
    "cmu_stretch": 1.0,
    "bc_z": 0.2,
    "fmb_dataset": 1.0,
    "dobbe": 0.2,
    "droid": 0.06,
}

# iVideoGPT's OXE_SELECT: seven large sets, and 0.2 shared by 31 small ones; uiuc_d3field counts as four, one a camera.
_SMALL = 0.20 / 31
_IVIDEOGPT: Mixture = {
    "fractal20220817_data": 0.15,
    "kuka": 0.10,
    "bridge": 0.15,
    "bc_z": 0.15,
    "robo_net": 0.15,
    "language_table": 0.05,
    "stanford_mask_vit" + TO_RLDS: 0.05,
    **dict.fromkeys(
        (
            "taco_play", "jaco_play", "roboturk", "viola", "toto", "columbia_cairlab_pusht_real",
            *(name + DATASET_TO_RLDS for name in (
                "stanford_kuka_multimodal", "stanford_hydra", "austin_buds", "nyu_franka_play", "furniture_bench",
                "ucsd_kitchen", "ucsd_pick_and_place", "austin_sailor",
            )),
            *(name + TO_RLDS for name in (
                "utokyo_pr2_tabletop_manipulation", "utokyo_xarm_pick_and_place", "utokyo_xarm_bimanual",
                "kaist_nonprehensile", "dlr_sara_pour", "dlr_sara_grid_clamp", "dlr_edan_shared_control",
                "asu_table_top",
            )),
            "utaustin_mutex", "berkeley_fanuc_manipulation", "cmu_playing_with_food", "cmu_play_fusion", "cmu_stretch",
        ),
        _SMALL,
    ),
    "uiuc_d3field": 4 * _SMALL,
}

# Episodes of all splits, by the TFDS catalogue (tensorflow/datasets, docs/catalog). *: by a third party's listing of
# the bucket's dataset_info.json (registry_facts.INVENTORY). **: before its filter for successes. ***: from memory, and
# rough.
EPISODES: dict[str, int] = {
    "fractal20220817_data": 87_212,
    "kuka": 580_392,  # **
    "bridge_dataset": 60_064,  # ***
    "taco_play": 3_603,
    "jaco_play": 1_085,
    "berkeley_cable_routing": 1_647,
    "roboturk": 1_995,  # *
    "viola": 150,
    "berkeley_autolab_ur5": 1_000,  # *
    "toto": 1_003,  # *
    "language_table": 442_226,  # *; google-research/language-table, README, too
    "columbia_cairlab_pusht_real": 136,
    "bc_z": 43_264,
    "robo_net": 82_775,  # *: of 0.1.0
    "stanford_hydra" + DATASET_TO_RLDS: 570,
    "austin_buds" + DATASET_TO_RLDS: 50,
    "nyu_franka_play" + DATASET_TO_RLDS: 456,
    "maniskill" + DATASET_TO_RLDS: 30_213,
    "furniture_bench" + DATASET_TO_RLDS: 5_100,  # *
    "cmu_franka_exploration" + DATASET_TO_RLDS: 199,
    "austin_sailor" + DATASET_TO_RLDS: 240,
    "austin_sirius" + DATASET_TO_RLDS: 559,
    "utaustin_mutex": 1_500,
    "iamlab_cmu_pickup_insert" + TO_RLDS: 631,
    "cmu_play_fusion": 576,
    "kaist_nonprehensile" + TO_RLDS: 201,
    "stanford_robocook" + TO_RLDS: 2_460,
    "droid": 95_658,  # *: of 1.0.1
    "fmb": 1_804,  # of 0.1.0; the listing counts 8,611 in 0.0.1
    "robo_set": 18_250,
    "stanford_kuka_multimodal" + DATASET_TO_RLDS: 3_000,
    "nyu_rot" + DATASET_TO_RLDS: 14,
    "ucsd_kitchen" + DATASET_TO_RLDS: 150,
    "ucsd_pick_and_place" + DATASET_TO_RLDS: 1_355,
    "utokyo_pr2_opening_fridge" + TO_RLDS: 80,
    "utokyo_pr2_tabletop_manipulation" + TO_RLDS: 240,
    "utokyo_xarm_pick_and_place" + TO_RLDS: 102,
    "stanford_mask_vit" + TO_RLDS: 9_200,
    "tokyo_u_lsmo" + TO_RLDS: 50,
    "dlr_sara_pour" + TO_RLDS: 100,
    "dlr_sara_grid_clamp" + TO_RLDS: 107,
    "dlr_edan_shared_control" + TO_RLDS: 104,  # *
    "asu_table_top" + TO_RLDS: 110,
    "berkeley_fanuc_manipulation": 415,
    "cmu_stretch": 135,
}

_WRIST = "a camera in the hand alone: the arm and most of the scene are out of sight"
_DRIVES = "a robot that drives, without an arm; the camera moves with it"
_BENCHMARK = "a benchmark to be evaluated on"
_SAME_FILES = "another name for files that are in the mixture"

LEFT_OUT: dict[str, str] = {
    "tabletop": "this project's own simulator",
    "bridge": "an older copy of bridge_dataset",
    "bridge_oxe": "an older copy of bridge_dataset",
    **dict.fromkeys(("bridge_orig", "fmb_dataset", "roboset"), _SAME_FILES),
    **dict.fromkeys(
        (
            "nyu_door_opening_surprising_effectiveness", "berkeley_mvp" + TO_RLDS, "berkeley_rpt" + TO_RLDS, "dobbe",
            "imperialcollege_sawyer_wrist_cam",
        ),
        _WRIST,
    ),
    **dict.fromkeys(("berkeley_gnm_recon", "berkeley_gnm_cory_hall", "berkeley_gnm_sac_son"), _DRIVES),
    **dict.fromkeys((f"libero_{suite}_no_noops" for suite in ("spatial", "object", "goal", "10")), _BENCHMARK),
    "utokyo_xarm_bimanual" + TO_RLDS: "the left arm moves, and is in no action",
    "cmu_playing_with_food": "its motion is unknown",
    "uiuc_d3field": "its raw data are said to be broken (Octo, OpenVLA)",
    "rh20t": "nobody distributes it in the form that this entry reads",
    **dict.fromkeys(
        ("aloha_static_dataset", "aloha_mobile_dataset", "aloha_dagger_dataset", "aloha_mobile", "gnm_dataset"),
        "cannot be converted: see its entry",
    ),
}

MIXTURES: dict[str, Mixture] = {
    "rt_x": _RT_X,
    "magic_soup_plus": _MAGIC_SOUP_PLUS,
    "ivideogpt_select": _IVIDEOGPT,
    "whale_x": {name: math.sqrt(count) for name, count in EPISODES.items()},
}


def mixture_of(name: str) -> Mixture:
    """Dataset to weight.

    Raises:
        UserError: there is no such mixture.
    """
    if name not in MIXTURES:
        near = difflib.get_close_matches(name, MIXTURES, 1)
        remedy = (f"did you mean {near[0]!r}? " if near else "") + f"choose one of: {', '.join(MIXTURES)}"
        raise UserError(f"there is no mixture {name!r}", remedy)
    return MIXTURES[name]
